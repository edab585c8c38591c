"""The in-process transport in virtual time: every message carries the time of its arrival."""

from collections.abc import Callable

import torch

from tttscale.comm.threads import ThreadTransport
from tttscale.model.ports import Carried, Part
from tttscale.plan.costs import Costs
from tttscale.plan.virtual_time import VirtualTimeline
from tttscale.scan.schedule import CarryKey, Phase
from tttscale.scan.transport import RecvHandle


class VirtualTransport:
    """Sends tiny tensors, and says when the real ones would arrive."""

    def __init__(
        self,
        transport: ThreadTransport,
        timeline: VirtualTimeline,
        costs: Costs,
        carry_bytes: Callable[[CarryKey], int],
        ranks_per_host: int,
    ) -> None:
        """Send nothing yet.

        Args:
            transport: of this rank's thread.
            timeline: this rank's clock.
            costs: of the wire.
            carry_bytes: length of the real message that carries a part.
            ranks_per_host: neighbouring ranks that share a host.
        """
        self.rank, self.size = transport.rank, transport.size
        self._transport, self._timeline, self._costs = transport, timeline, costs
        self._carry_bytes, self._ranks_per_host = carry_bytes, ranks_per_host
        self._free: dict[tuple[int, Phase], float] = {}
        """(target, sweep) -> when its link has taken all that was sent."""

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> RecvHandle:
        """Start to receive."""
        handle = self._transport.irecv(key, source, carried)
        return _Handle(handle, key, self._timeline)

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Send the tensors with the real message's times; messages of a link leave one after the other."""
        same = self.rank // self._ranks_per_host == target // self._ranks_per_host
        latency = self._costs.wire_seconds(0, same)
        occupied = self._costs.wire_seconds(self._carry_bytes(key), same) - latency
        sent = self._timeline.send(key)
        free = max(sent, self._free.get((target, key.phase), 0.0)) + occupied
        self._free[target, key.phase] = free
        times = torch.tensor([sent, free + latency], dtype=torch.float64)
        self._transport.isend(key, target, (*part, times))

    def flush(self) -> None:
        """Wait until everything has left."""
        self._timeline.flush(max(self._free.values(), default=0.0))


class _Handle:
    def __init__(self, handle: RecvHandle, key: CarryKey, timeline: VirtualTimeline) -> None:
        self._handle, self._key, self._timeline = handle, key, timeline

    def wait(self) -> Part:
        """Block until it is here, in both times."""
        *tensors, times = self._handle.wait()
        self._timeline.arrive(self._key, *times.tolist())
        return tuple(tensors)
