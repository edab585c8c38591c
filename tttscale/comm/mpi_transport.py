"""Carries between neighbouring ranks over MPI.

Every link has a communicator of its own for each direction, as it has a process group over torch.distributed
(`tttscale.comm.neighbours`). MPI moves a message of some size only while somebody is inside one of its calls.
So a thread looks after what is under way about a thousand times a second, and sleeps in between: a call that
blocks would keep a core busy that computes. A rank that waits for a message looks after all of them itself.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tttscale.comm.farewell import Farewells
from tttscale.comm.groups import in_rounds
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
from tttscale.scan.carry_store import ALIGN_BYTES, views
from tttscale.scan.schedule import CarryKey, Phase

_SLEEP_SHARE = 1 / 8
"""Between two looks passes this share of the time since a message began or ended, within the bounds below."""
_COMPUTING_SECONDS = (0.00025, 0.002)
"""Shortest and longest sleep of the thread. A look takes some 20 us of a core that computes."""
_WAITING_SECONDS = (0.00002, 0.00025)
"""The same for a rank that waits; below the shortest it does not sleep, but offers its core to others."""


@dataclass
class _Transfer:
    """A message under way."""

    key: CarryKey
    peer: int
    """On the sequence axis."""
    buffer: Tensor
    request: Any
    done: bool = False
    error: Exception | None = None

    def look(self) -> bool:
        """Whether it has ended, well or not; MPI makes progress meanwhile."""
        try:
            self.done = self.request.Test()
        except RuntimeError as error:  # mpi4py's are
            self.error, self.done = error, True
        return self.done


@dataclass
class _Channel:
    """One direction of a link, on this rank."""

    communicator: Any
    peer: int
    """On the sequence axis."""
    other: int
    """The peer's rank in the communicator."""
    under_way: deque[_Transfer] = field(default_factory=deque)

    def progress(self) -> int:
        """Count messages that have ended; MPI delivers those of a communicator in order."""
        ended = 0
        while self.under_way and self.under_way[0].look():
            self.under_way.popleft()
            ended += 1
        return ended


class MPITransport:
    """`tttscale.scan.transport.Transport` between the sequence ranks of a replica, of CPU tensors."""

    def __init__(
        self,
        rank: int,
        size: int,
        channels: dict[tuple[int, int, Phase], _Channel],
        unit: Any,
        truncated: int,
        lost: Callable[[int], Exception | None],
        timeout_seconds: float,
    ) -> None:
        """Use `connect` instead.

        Args:
            rank: on the sequence axis.
            size: of the sequence axis.
            channels: by (source, target, phase), for the links that this rank has.
            unit: MPI's datatype of ALIGN_BYTES bytes; counts of it fit into 31 bits up to 32 GiB.
            truncated: MPI's error class of a message that is longer than its buffer.
            lost: what is known of the end of a sequence rank; None while it lives.
            timeout_seconds: for one message.
        """
        self.rank, self.size = rank, size
        self._channels, self._unit, self._lost = channels, unit, lost
        self._truncated = truncated
        self._progress = _Progress(list(channels.values()))
        self._timeout_seconds = timeout_seconds
        self._sends: deque[_Transfer] = deque()

    @classmethod
    def connect(
        cls, world: Any, size: int, *, farewells: Farewells | None, timeout_seconds: float
    ) -> "MPITransport":
        """Create all links of this rank; every rank of a replica calls this.

        Args:
            world: `tttscale.comm.mpi_world.join_mpi`'s.
            size: sequence ranks R per replica.
            farewells: of the neighbours.
            timeout_seconds: for one message.
        """
        from mpi4py import MPI

        rank, first = world.rank % size, world.rank // size * size
        channels = {}
        for tag, (source, target, phase) in enumerate(in_rounds(ring_links(size), size)):
            if rank in (source, target):  # in one order on all ranks, hence in no circle
                pair = [first + source, first + target]
                group = world.Get_group().Incl(pair)
                communicator = world.Create_group(group, tag)
                communicator.Set_errhandler(MPI.ERRORS_RETURN)
                group.Free()
                other = int(rank == source)
                peer = (source, target)[other]
                channels[source, target, phase] = _Channel(communicator, peer, other)
        unit = MPI.BYTE.Create_contiguous(ALIGN_BYTES).Commit()

        def lost(peer: int) -> Exception | None:
            return farewells.lost(first + peer) if farewells else None

        return cls(rank, size, channels, unit, MPI.ERR_TRUNCATE, lost, timeout_seconds)

    def irecv(self, key: CarryKey, source: int, carried: Carried) -> "_MPIHandle":
        """Start a receive into a buffer of its own."""
        buffer = torch.empty(message_bytes(carried), dtype=torch.uint8)
        channel = self._channels[source, self.rank, key.phase]
        try:
            request = channel.communicator.Irecv(self._memory(buffer), channel.other)
        except RuntimeError as error:
            raise lost_at(self.rank, source, key, error) from None
        transfer = _Transfer(key, source, buffer, request)
        self._progress.add(channel, transfer)
        return _MPIHandle(self, transfer, carried)

    def isend(self, key: CarryKey, target: int, part: Part) -> None:
        """Copy header and tensors into one buffer and start to send it."""
        while self._sends and self._sends[0].done:
            self._settle(self._sends.popleft())
        buffer = message(key, part, torch.device("cpu"))
        channel = self._channels[self.rank, target, key.phase]
        try:
            request = channel.communicator.Isend(self._memory(buffer), channel.other)
        except RuntimeError as error:
            raise lost_at(self.rank, target, key, error) from None
        transfer = _Transfer(key, target, buffer, request)
        self._sends.append(transfer)
        self._progress.add(channel, transfer)

    def flush(self) -> None:
        """Wait for all sends."""
        while self._sends:
            self.wait(self._sends.popleft())

    def close(self) -> None:
        """Stop the thread; nothing may be under way."""
        self._progress.stop()

    def wait(self, transfer: _Transfer) -> None:
        """Return when a message has ended.

        Raises:
            PeerError: it cannot, since the peer has ended or says nothing.
        """
        for waited in self._progress.until(transfer):
            if error := self._lost(transfer.peer):
                raise lost_at(self.rank, transfer.peer, transfer.key, error)
            if waited > self._timeout_seconds:
                raise PeerError(
                    f"sequence rank {self.rank} waited {waited:.0f} s for rank {transfer.peer} at "
                    f"{transfer.key}"
                )
        self._settle(transfer)

    def _settle(self, transfer: _Transfer) -> None:
        key, peer, error = transfer.key, transfer.peer, transfer.error
        if error is not None and getattr(error, "error_class", None) == self._truncated:
            raise PeerError(
                f"sequence rank {self.rank} expected {key} from rank {peer} ({len(transfer.buffer)} bytes) "
                "and received a longer message; the ranks run different configurations or versions"
            )
        if error is not None:
            raise lost_at(self.rank, peer, key, error)

    def _memory(self, buffer: Tensor) -> list:
        assert len(buffer) % ALIGN_BYTES == 0
        return [buffer.numpy(), len(buffer) // ALIGN_BYTES, self._unit]


class _MPIHandle:
    def __init__(self, transport: MPITransport, transfer: _Transfer, carried: Carried) -> None:
        self._transport, self._transfer, self._carried = transport, transfer, carried

    def wait(self) -> Part:
        """The part's tensors, views of the buffer."""
        self._transport.wait(self._transfer)
        buffer = self._transfer.buffer
        check_header(self._transport.rank, self._transfer.key, buffer[:HEADER_BYTES])
        return views(buffer[HEADER_BYTES:], self._carried)


class _Progress:
    """Moves what is under way, from a thread of its own and from a rank that waits."""

    def __init__(self, channels: Sequence[_Channel]) -> None:
        self._channels = channels
        self._one_at_a_time = threading.Lock()  # MPI allows one thread to look at a request
        self._stopped, self._moved = False, time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="mpi-progress", daemon=True)
        self._thread.start()

    def add(self, channel: _Channel, transfer: _Transfer) -> None:
        """Look after a message that was started."""
        channel.under_way.append(transfer)
        self._moved = time.perf_counter()

    def until(self, transfer: _Transfer) -> Iterator[float]:
        """Move all messages until one has ended; yields the seconds waited, between looks."""
        began, (shortest, longest) = time.perf_counter(), _WAITING_SECONDS
        while not transfer.done:
            if self._look():
                continue
            now = time.perf_counter()
            yield now - began
            pause = (now - max(began, self._moved)) * _SLEEP_SHARE
            if pause < shortest:
                os.sched_yield()
            else:
                time.sleep(min(pause, longest))

    def _look(self) -> bool:
        with self._one_at_a_time:
            ended = sum(channel.progress() for channel in self._channels)
            if not any(channel.under_way for channel in self._channels):
                # MPI may hold back what it has called sent: a call that moves it, and asks for nothing.
                with suppress(RuntimeError):  # whoever waits hears of it
                    self._channels[0].communicator.Iprobe()
        if ended:
            self._moved = time.perf_counter()
        return ended > 0

    def _run(self) -> None:
        shortest, longest = _COMPUTING_SECONDS
        while not self._stopped:
            self._look()
            pause = (time.perf_counter() - self._moved) * _SLEEP_SHARE
            time.sleep(min(max(pause, shortest), longest))

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._thread.join()
