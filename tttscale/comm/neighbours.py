"""Carries between neighbouring ranks over torch.distributed (gloo or NCCL).

Every link from a rank to its neighbour has a process group of its own for each direction, also when two
links join the same two ranks. Otherwise a receive that waits for a gradient could block a state behind it: a
group's messages share one stream.
"""

import queue
import threading
from collections import deque
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tttscale.comm.groups import in_rounds, link_groups
from tttscale.comm.messages import (
    HEADER_BYTES,
    check_header,
    lost_at,
    message,
    message_bytes,
    ring_links,
)
from tttscale.errors import PeerError
from tttscale.model.ports import Carried, Part
from tttscale.scan.carry_store import views
from tttscale.scan.schedule import CarryKey, Phase


class NeighbourTransport:
    """`tttscale.scan.transport.Transport` between the sequence ranks of a replica."""

    def __init__(
        self,
        rank: int,
        size: int,
        first: int,
        groups: dict[tuple[int, int, Phase], dist.ProcessGroup],
        device: torch.device,
    ) -> None:
        """Use `connect` instead.

        Args:
            rank: on the sequence axis.
            size: of the sequence axis.
            first: world rank of this replica's sequence rank 0.
            groups: by (source, target, phase), for the links that this rank has.
            device: where buffers live.
        """
        self.rank, self.size = rank, size
        self._first, self._groups, self._device = first, groups, device
        self._sends: deque[tuple[dist.Work, Tensor]] = deque()
        self._checks: list[tuple[CarryKey, Tensor]] = []
        self._waiter = _SendWaiter() if device.type == "cpu" else None

    @classmethod
    def connect(
        cls,
        rank: int,
        world_size: int,
        size: int,
        *,
        device: torch.device,
        timeout: timedelta,
    ) -> "NeighbourTransport":
        """Create and warm up all links of all replicas, on every rank in the same order."""
        first = rank // size * size
        links = in_rounds(ring_links(size), size)
        backend = "gloo" if device.type == "cpu" else "nccl"
        groups = link_groups(rank, world_size, links, size, backend=backend, timeout=timeout)
        transport = cls(rank - first, size, first, groups, device)
        transport._warm_up()
        return transport

    def _warm_up(self) -> None:
        """Send one float over every link, in one order, so that no connection is made inside a sweep."""
        token = torch.zeros(1, device=self._device)
        for source, target, phase in in_rounds(ring_links(self.size), self.size):
            group = self._groups.get((source, target, phase))
            if group is not None and self.rank == source:
                dist.send(token, self._first + target, group=group)
            elif group is not None:
                dist.recv(token, self._first + source, group=group)

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> "_TorchHandle":
        """Start a receive into a buffer of its own."""
        buffer = torch.empty(message_bytes(carried), dtype=torch.uint8, device=self._device)
        group = self._groups[source, self.rank, key.phase]
        try:
            work = dist.irecv(buffer, self._first + source, group=group)
        except RuntimeError as error:
            raise lost_at(self.rank, source, key, error) from None
        assert work is not None
        return _TorchHandle(self, work, buffer, key, source, carried)

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Copy header and tensors into one buffer and start to send it."""
        buffer = message(key, part, self._device)
        group = self._groups[self.rank, target, key.phase]
        try:
            work = dist.isend(buffer, self._first + target, group=group)
        except RuntimeError as error:
            raise lost_at(self.rank, target, key, error) from None
        assert work is not None
        if self._waiter is not None:
            self._waiter.put(work, buffer, (self.rank, target, key))
            return
        self._sends.append((work, buffer))
        while self._sends and self._sends[0][0].is_completed():
            self._sends.popleft()

    def flush(self) -> None:
        """Wait for all sends, and check the headers that are still to be checked (CUDA)."""
        if self._waiter is not None:
            self._waiter.flush()
        for work, _ in self._sends:
            work.wait()
        self._sends.clear()
        for key, lead in self._checks:
            check_header(self.rank, key, lead)
        self._checks.clear()

    def check_later(self, key: CarryKey, lead: Tensor) -> None:
        """On CUDA the check waits for the end of the sweep: it would stall the stream here."""
        self._checks.append((key, lead.clone()))


class _TorchHandle:
    def __init__(
        self,
        transport: NeighbourTransport,
        work: dist.Work,
        buffer: Tensor,
        key: CarryKey,
        source: int,
        carried: Carried,
    ) -> None:
        self._transport, self._work, self._buffer = transport, work, buffer
        self._key, self._source, self._carried = key, source, carried

    def wait(self) -> Part:
        """The part's tensors, views of the buffer."""
        try:
            self._work.wait()
        except RuntimeError as error:
            raise lost_at(self._transport.rank, self._source, self._key, error) from None
        lead = self._buffer[:HEADER_BYTES]
        if lead.is_cuda:
            self._transport.check_later(self._key, lead)
        else:
            check_header(self._transport.rank, self._key, lead)
        return views(self._buffer[HEADER_BYTES:], self._carried)


class _SendWaiter:
    """Holds each buffer until gloo has sent it; gloo completes a send only inside `wait`."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[dist.Work, Tensor, tuple[int, int, CarryKey]]] = (
            queue.Queue()
        )
        self._error: PeerError | None = None
        threading.Thread(target=self._run, name="send-waiter", daemon=True).start()

    def _run(self) -> None:
        while True:
            work, buffer, (rank, target, key) = self._queue.get()
            try:
                work.wait()
            except RuntimeError as error:
                self._error = self._error or lost_at(rank, target, key, error)
            del work, buffer
            self._queue.task_done()

    def put(self, work: dist.Work, buffer: Tensor, about: tuple[int, int, CarryKey]) -> None:
        """Take over a send that was started."""
        if self._error is not None:
            raise self._error
        self._queue.put((work, buffer, about))

    def flush(self) -> None:
        """Return once all sends are done."""
        self._queue.join()
        if self._error is not None:
            raise self._error
