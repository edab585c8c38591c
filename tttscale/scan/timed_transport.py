"""A transport that measures how long it holds this rank up."""

import torch

from tttscale.model.ports import Carried, Part
from tttscale.scan.schedule import CarryKey
from tttscale.scan.transport import RecvHandle, Transport
from tttscale.scan.wait_timer import WaitTimer


class TimedTransport:
    """A transport that measures how long it held this rank up, at both ends of a message."""

    def __init__(self, transport: Transport, device: torch.device) -> None:
        """Start at zero.

        Args:
            transport: carries the messages.
            device: waits for them.
        """
        self.rank, self.size = transport.rank, transport.size
        self._transport, self.timer = transport, WaitTimer(device)

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> RecvHandle:
        """Start to receive."""
        with self.timer.measure_host():
            handle = self._transport.irecv(key, source, carried)
        return _TimedHandle(handle, self.timer)

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Start to send."""
        with self.timer.measure_host():
            self._transport.isend(key, target, part)

    def flush(self) -> None:
        """Return when everything sent has left."""
        with self.timer.measure():
            self._transport.flush()


class _TimedHandle:
    def __init__(self, handle: RecvHandle, timer: WaitTimer) -> None:
        self._handle, self._timer = handle, timer

    def wait(self) -> Part:
        """Block until it is here."""
        with self._timer.measure():
            return self._handle.wait()
