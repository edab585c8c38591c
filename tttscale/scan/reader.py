"""Chunks of tokens as tensors, read one ahead by a thread, exactly when the sweeps need them."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tttscale.model.chunk import Chunk
from tttscale.model.device import to_device


class TokenChunk(Protocol):
    """A range of a sequence's tokens (`tttscale.data` implements it)."""

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
    """int64 [B, C]."""
    labels: Tensor
    """int64 [B, C]."""
    chunk: Chunk


def assemble(rows: Sequence[TokenChunk], begin: int, device: torch.device) -> Batch:
    """Stack the same range of B sequences."""
    ids = to_device(torch.from_numpy(np.stack([row.ids for row in rows])), device)
    labels = to_device(torch.from_numpy(np.stack([row.labels for row in rows])), device)
    padded = None
    if any(row.padded is not None for row in rows):
        none = np.zeros(ids.shape[1], dtype=bool)
        masks = [none if row.padded is None else row.padded for row in rows]
        padded = to_device(torch.from_numpy(np.stack(masks)), device)
    return Batch(ids, labels, Chunk(tuple(tuple(row.starts) for row in rows), padded, begin))


class Reader:
    """Reads chunks in a known order, one ahead, in a thread of its own."""

    def __init__(
        self,
        device: torch.device,
        note: Callable[[float, float, int, int], None] | None = None,
        chunk_tokens: int = 1,
    ) -> None:
        """Start the thread.

        Args:
            device: where the tokens go.
            note: told of every read by the thread: `time.perf_counter` at its begin and end, sequence and
                chunk.
            chunk_tokens: C.
        """
        self._device, self._note, self._chunk_tokens = device, note, chunk_tokens
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-chunk")

    def read(
        self, groups: Groups, ranges: Iterable[tuple[int, int, int]]
    ) -> Generator[Batch, None, None]:
        """The batch of every (m, begin, end); the first is being read when this returns.

        Args:
            groups: groups[m] are the B sequences that go through the sweeps side by side as
                sequence m.
            ranges: what to read; drawn from one ahead of its use.
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
            batch = future.result()
            future = self._submit(groups, next(upcoming, None))
            yield batch

    def _submit(self, groups: Groups, wanted: tuple[int, int, int] | None) -> Future[Batch] | None:
        return None if wanted is None else self._thread.submit(self._read, groups, *wanted)

    def _read(self, groups: Groups, group: int, begin: int, end: int) -> Batch:
        began = time.perf_counter()
        rows = [sequence.chunk(begin, end) for sequence in groups[group]]
        batch = assemble(rows, begin, self._device)
        if self._note is not None:
            self._note(began, time.perf_counter(), group, begin // self._chunk_tokens)
        return batch
