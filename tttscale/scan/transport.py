"""How a carry reaches another rank: the protocol that `tttscale.comm` implements; receives ahead of use."""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from tttscale.model.ports import Carried, Part
from tttscale.scan.carry import CarryLayout
from tttscale.scan.schedule import CarryKey


class RecvHandle(Protocol):
    """A receive under way."""

    def wait(self) -> Part:
        """Block until it is here.

        Raises:
            PeerError: the peer died, or sent something else than was expected.
        """
        ...


class Transport(Protocol):
    """Messages between the sequence ranks of one replica, in order for each (peer, phase)."""

    rank: int
    size: int

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> RecvHandle:
        """Start to receive a part of these shapes and this dtype."""
        ...

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Start to send and return at once; the tensors may not be changed afterwards."""
        ...

    def flush(self) -> None:
        """Return when everything sent has left (the end of a sweep)."""
        ...


class SingleRank:
    """The transport of a job without other sequence ranks."""

    rank = 0
    size = 1

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> RecvHandle:
        """Cannot happen."""
        raise AssertionError(f"a single rank waits for {key}")

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Cannot happen."""
        raise AssertionError(f"a single rank sends {key}")

    def flush(self) -> None:
        """Everything has left."""


class RecvQueue:
    """Receives started a few messages ahead, in the order that the schedule knows beforehand."""

    def __init__(
        self,
        transport: Transport,
        expected: Iterator[tuple[int, CarryKey]],
        layout: CarryLayout,
        ahead: int,
    ) -> None:
        """Start the first receives.

        Args:
            transport: carries the messages.
            expected: (source, key) in the order of their use.
            layout: shapes and dtype of every part.
            ahead: receives started before they are needed.
        """
        self._transport, self._expected, self._layout = transport, expected, layout
        self._started: deque[tuple[CarryKey, RecvHandle]] = deque()
        for _ in range(ahead):
            self._start_next()

    def _start_next(self) -> None:
        following = next(self._expected, None)
        if following is not None:
            source, key = following
            handle = self._transport.irecv(key, source, self._layout.of(key))
            self._started.append((key, handle))

    def recv(self, key: CarryKey) -> Part:
        """Wait for the next message, which must be this one."""
        started, handle = self._started.popleft()
        assert started == key, f"out of order: wants {key}, receives {started}"
        self._start_next()
        return handle.wait()
