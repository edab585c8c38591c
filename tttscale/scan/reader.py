"""Chunks of tokens as tensors, read one ahead by a thread, exactly when the sweeps need them."""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tttscale.model.chunk import Chunk
from tttscale.model.device import to_device


class TokenChunk(Protocol):
    """What a sequence of tokens gives for a range (`tttscale.data` implements it)."""

    @property
    def ids(self) -> np.ndarray:
        """int64 [n]."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], shifted; -100 where masked."""
        ...

    @property
    def starts(self) -> tuple[int, ...]:
        """Positions inside the range where a document begins."""
        ...

    @property
    def padded(self) -> np.ndarray | None:
        """bool [n], or None if nothing is padded."""
        ...


class TokenSequence(Protocol):
    """A sequence that can be read by ranges."""

    def chunk(self, begin: int, end: int) -> TokenChunk:
        """Tokens begin..end and their labels."""
        ...


Groups = Sequence[Sequence[TokenSequence]]


@dataclass(frozen=True)
class Batch:
    """One chunk of B sequences on the device."""

    ids: Tensor
    labels: Tensor
    chunk: Chunk
    begin: int


def assemble(parts: Sequence[TokenChunk], begin: int, device: torch.device) -> Batch:
    """Stack the same range of B sequences."""
    ids = to_device(torch.from_numpy(np.stack([part.ids for part in parts])), device)
    labels = to_device(torch.from_numpy(np.stack([part.labels for part in parts])), device)
    padded = None
    if any(part.padded is not None for part in parts):
        nothing = np.zeros(ids.shape[1], dtype=bool)
        rows = [nothing if part.padded is None else part.padded for part in parts]
        padded = to_device(torch.from_numpy(np.stack(rows)), device)
    return Batch(ids, labels, Chunk(tuple(tuple(part.starts) for part in parts), padded), begin)


class Reader:
    """Reads chunks in a known order, one ahead, in a thread of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-chunk")
        self.wait_seconds = 0.0
        """Time that `read`'s user waited for a chunk that was not there yet."""

    def read(
        self, groups: Groups, ranges: Iterable[tuple[int, int, int]]
    ) -> Generator[Batch, None, None]:
        """The batch of every (m, begin, end); the first is being read when this returns.

        Args:
            groups: groups[m] are the B sequences that go through the sweeps side by side as
                sequence m.
            ranges: what to read, asked for one ahead of its use.
        """
        upcoming = iter(ranges)
        return self._batches(groups, upcoming, self._submit(groups, next(upcoming, None)))

    def _batches(
        self,
        groups: Groups,
        upcoming: Iterator[tuple[int, int, int]],
        future: Future[Batch] | None,
    ) -> Generator[Batch, None, None]:
        while future is not None:
            began = time.perf_counter()
            batch = future.result()
            self.wait_seconds += time.perf_counter() - began
            future = self._submit(groups, next(upcoming, None))
            yield batch

    def _submit(self, groups: Groups, wanted: tuple[int, int, int] | None) -> Future[Batch] | None:
        return None if wanted is None else self._thread.submit(self._read, groups, *wanted)

    def _read(self, groups: Groups, group: int, begin: int, end: int) -> Batch:
        parts = [sequence.chunk(begin, end) for sequence in groups[group]]
        return assemble(parts, begin, self._device)
