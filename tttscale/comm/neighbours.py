"""Carries between neighbouring ranks over torch.distributed (gloo or NCCL).

Every edge has a process group of its own for each direction, also when two edges join the same two
ranks. Otherwise a receive that is parked for a gradient could block a carry behind it: a group's messages
share one stream.
"""

import math
import queue
import threading
from collections import deque
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tttscale.errors import PeerError
from tttscale.model.chunk import PARTS
from tttscale.model.device import to_device
from tttscale.scan.carry import Shapes, views
from tttscale.scan.schedule import Message, Phase
from tttscale.scan.transport import Part

PART_CODES = {part: i for i, part in enumerate(PARTS)}
HEADER_FLOATS = 6
_MAGIC = 1779
"""First number of every message; fp32 holds it and all chunk numbers up to 2^24 exactly."""


def header(message: Message) -> list[int]:
    """The numbers that lead a message and are checked on arrival."""
    forward = int(message.phase is Phase.FORWARD)
    part = PART_CODES[message.part]
    return [_MAGIC, forward, message.sequence, message.edge, message.layer, part]


class NeighbourTransport:
    """`tttscale.scan.transport.Transport` between the sequence ranks of a replica."""

    def __init__(
        self,
        rank: int,
        size: int,
        first: int,
        groups: dict[tuple[int, int, Phase], dist.ProcessGroup],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Use `connect` instead.

        Args:
            rank: on the sequence axis.
            size: of the sequence axis.
            first: world rank of this replica's sequence rank 0.
            groups: by (source, target, phase), for the edges that this rank has.
            device: where buffers live.
            dtype: of the numbers on the wire: fp32, or fp64 for a model in fp64.
        """
        self.rank, self.size, self.dtype = rank, size, dtype
        self._first, self._groups, self._device = first, groups, device
        self._sends: deque[tuple[dist.Work, Tensor]] = deque()
        self._checks: list[tuple[Message, Tensor]] = []
        self._waiter = _SendWaiter() if device.type == "cpu" else None

    @classmethod
    def connect(
        cls,
        rank: int,
        world_size: int,
        size: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        timeout: timedelta,
    ) -> "NeighbourTransport":
        """Create and warm up all edges of all replicas, on every rank in the same order."""
        first = rank // size * size
        groups: dict[tuple[int, int, Phase], dist.ProcessGroup] = {}
        backend = "gloo" if device.type == "cpu" else "nccl"
        for replica in range(0, world_size, size):
            for source, target, phase in ring_edges(size):
                pair = sorted((replica + source, replica + target))
                group = dist.new_group(pair, timeout=timeout, backend=backend)
                if rank in pair:
                    assert isinstance(group, dist.ProcessGroup)
                    groups[source, target, phase] = group
        transport = cls(rank - first, size, first, groups, device, dtype)
        transport._warm_up()
        return transport

    def _warm_up(self) -> None:
        """One float over every edge, in one order, so that no connection is made inside a sweep."""
        token = torch.zeros(1, device=self._device)
        for source, target, phase in ring_edges(self.size):
            group = self._groups.get((source, target, phase))
            if group is not None and self.rank == source:
                dist.send(token, self._first + target, group=group)
            elif group is not None:
                dist.recv(token, self._first + source, group=group)

    def post(self, message: Message, source: int, shapes: Shapes) -> "_TorchPending":
        """Post a receive into a buffer of its own."""
        floats = HEADER_FLOATS + sum(math.prod(shape) for shape in shapes)
        buffer = torch.empty(floats, dtype=self.dtype, device=self._device)
        group = self._groups[source, self.rank, message.phase]
        try:
            work = dist.irecv(buffer, self._first + source, group=group)
        except RuntimeError as error:
            raise lost(_at(self.rank, source, message), error) from None
        assert work is not None
        return _TorchPending(self, work, buffer, message, source, shapes)

    def send(self, message: Message, target: int, part: Part) -> None:
        """Pack header and tensors into one buffer and start to send it."""
        lead = to_device(torch.tensor(header(message), dtype=self.dtype), self._device)
        buffer = torch.cat([lead, *(t.reshape(-1).to(self.dtype) for t in part)])
        group = self._groups[self.rank, target, message.phase]
        try:
            work = dist.isend(buffer, self._first + target, group=group)
        except RuntimeError as error:
            raise lost(_at(self.rank, target, message), error) from None
        assert work is not None
        if self._waiter is not None:
            self._waiter.put(work, buffer, (self.rank, target, message))
            return
        self._sends.append((work, buffer))
        while self._sends and self._sends[0][0].is_completed():
            self._sends.popleft()

    def finish(self) -> None:
        """Wait for all sends, and look at the headers whose check was put off (CUDA)."""
        if self._waiter is not None:
            self._waiter.finish()
        for work, _ in self._sends:
            work.wait()
        self._sends.clear()
        for message, lead in self._checks:
            self.check(message, lead)
        self._checks.clear()

    def check(self, message: Message, lead: Tensor) -> None:
        """Compare a header with what was expected."""
        found, wanted = [int(x) for x in lead.tolist()], header(message)
        if found != wanted:
            raise PeerError(
                f"sequence rank {self.rank} expected {message} (header {wanted}) and received header "
                f"{found}; the ranks run different configurations or versions"
            )

    def check_later(self, message: Message, lead: Tensor) -> None:
        """On CUDA the check waits for the end of the sweep: it would stall the stream here."""
        self._checks.append((message, lead.clone()))


class _TorchPending:
    def __init__(
        self,
        transport: NeighbourTransport,
        work: dist.Work,
        buffer: Tensor,
        message: Message,
        source: int,
        shapes: Shapes,
    ) -> None:
        self._transport, self._work, self._buffer = transport, work, buffer
        self._message, self._source, self._shapes = message, source, shapes

    def wait(self) -> Part:
        """The message's tensors, views of its buffer."""
        try:
            self._work.wait()
        except RuntimeError as error:
            raise lost(_at(self._transport.rank, self._source, self._message), error) from None
        lead = self._buffer[:HEADER_FLOATS]
        if lead.is_cuda:
            self._transport.check_later(self._message, lead)
        else:
            self._transport.check(self._message, lead)
        return views(self._buffer[HEADER_FLOATS:], self._shapes)


class _SendWaiter:
    """Holds each buffer until gloo has sent it; gloo completes a send only inside `wait`."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[dist.Work, Tensor, tuple[int, int, Message]]] = queue.Queue()
        self._error: PeerError | None = None
        threading.Thread(target=self._run, name="send-waiter", daemon=True).start()

    def _run(self) -> None:
        while True:
            work, buffer, (rank, target, message) = self._queue.get()
            try:
                work.wait()
            except RuntimeError as error:
                self._error = self._error or lost(_at(rank, target, message), error)
            del work, buffer
            self._queue.task_done()

    def put(self, work: dist.Work, buffer: Tensor, about: tuple[int, int, Message]) -> None:
        """Take over a send that was started."""
        if self._error is not None:
            raise self._error
        self._queue.put((work, buffer, about))

    def finish(self) -> None:
        """Return once all sends are done."""
        self._queue.join()
        if self._error is not None:
            raise self._error


def ring_edges(size: int) -> list[tuple[int, int, Phase]]:
    """(source, target, phase) of a ring: carries go up, gradients go down."""
    ups = [(r, (r + 1) % size, Phase.FORWARD) for r in range(size)]
    return ups + [(target, source, Phase.BACKWARD) for source, target, _ in ups]


def _at(rank: int, peer: int, message: Message) -> str:
    return f"sequence rank {rank} lost rank {peer} at {message}"


def lost(what: str, error: Exception) -> PeerError:
    """The error of a rank that noticed another one's end."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return PeerError(
        f"{what}: {reason}. The first rank that failed has the cause; this rank only noticed."
    )
