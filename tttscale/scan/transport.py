"""How a carry reaches a neighbour: the protocol that `tttscale.comm` implements, and the inbox."""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from tttscale.scan.carry import Shapes
from tttscale.scan.schedule import Message
from tttscale.scan.waits import Waits

Part = tuple[Tensor, ...]


class Pending(Protocol):
    """A receive that was posted."""

    def wait(self) -> Part:
        """Block until the message is here.

        Raises:
            PeerError: the peer died, or sent another message than was expected.
        """
        ...


class Transport(Protocol):
    """Messages between the sequence ranks of one replica; in order per (peer, phase)."""

    rank: int
    size: int

    def post(self, message: Message, source: int, shapes: Shapes) -> Pending:
        """Start to receive a message."""
        ...

    def send(self, message: Message, target: int, part: Part) -> None:
        """Start to send; returns at once, the tensors may not be changed afterwards."""
        ...

    def finish(self) -> None:
        """Return when everything sent is on its way out for good (the end of a step)."""
        ...


class NoPeers:
    """The transport of a single rank."""

    rank = 0
    size = 1

    def post(self, message: Message, source: int, shapes: Shapes) -> Pending:
        """There is nobody to hear from."""
        raise AssertionError(f"a single rank waits for {message}")

    def send(self, message: Message, target: int, part: Part) -> None:
        """There is nobody to send to."""
        raise AssertionError(f"a single rank sends {message}")

    def finish(self) -> None:
        """Nothing is under way."""


class TimedTransport:
    """A transport, and how long this rank was held up in it: by receiving, by sending, by both ends of it."""

    def __init__(self, transport: Transport, device: torch.device) -> None:
        """Time nothing yet.

        Args:
            transport: carries the messages.
            device: which waits for them.
        """
        self.rank, self.size = transport.rank, transport.size
        self._transport, self.waits = transport, Waits(device)

    def post(self, message: Message, source: int, shapes: Shapes) -> Pending:
        """Start to receive a message."""
        with self.waits.on_host():
            pending = self._transport.post(message, source, shapes)
        return _TimedPending(pending, self.waits)

    def send(self, message: Message, target: int, part: Part) -> None:
        """Start to send."""
        with self.waits.on_host():
            self._transport.send(message, target, part)

    def finish(self) -> None:
        """Return when everything sent is on its way out."""
        with self.waits.one():
            self._transport.finish()


class _TimedPending:
    def __init__(self, pending: Pending, waits: Waits) -> None:
        self._pending, self._waits = pending, waits

    def wait(self) -> Part:
        """Block until the message is here."""
        with self._waits.one():
            return self._pending.wait()


class Inbox:
    """Receives posted a few messages ahead, in the order that the schedule knows beforehand."""

    def __init__(
        self,
        transport: Transport,
        expected: Iterator[tuple[int, Message]],
        shapes: dict[str, Shapes],
        ahead: int,
    ) -> None:
        """Post the first receives.

        Args:
            transport: carries the messages.
            expected: (source, message) in the order of their use.
            shapes: of each part.
            ahead: receives posted before they are needed.
        """
        self._transport, self._expected, self._shapes = transport, expected, shapes
        self._posted: deque[tuple[Message, Pending]] = deque()
        for _ in range(ahead):
            self._post_next()

    def _post_next(self) -> None:
        following = next(self._expected, None)
        if following is not None:
            source, message = following
            pending = self._transport.post(message, source, self._shapes[message.part])
            self._posted.append((message, pending))

    def take(self, message: Message) -> Part:
        """Wait for the next message, which must be this one."""
        posted, pending = self._posted.popleft()
        assert posted == message, f"out of order: wanted {message}, posted {posted}"
        self._post_next()
        return pending.wait()
