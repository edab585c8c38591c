"""Sums over positions of many sequences, in a form that adds up alike for every number of ranks.

A piece is a stretch of positions that lies in one chunk and in one bucket. A rank enters the pieces of its
own chunks and leaves the others zero, so adding the ranks' tables is exact, and buckets are added up from
pieces in the order of positions whoever had them.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tttscale.scan.losses import position_edges


class Pieces:
    """The pieces of a length, and the buckets that they add up to."""

    def __init__(self, length_tokens: int, chunk_tokens: int) -> None:
        self.edges = position_edges(length_tokens)
        """Borders of the buckets, 0 to the length."""
        borders = {*range(0, length_tokens, chunk_tokens), *self.edges}
        self._borders = sorted(borders)

    def __len__(self) -> int:
        return len(self._borders) - 1

    def inside(self, begin: int, end: int) -> Iterator[tuple[int, slice]]:
        """Yield number and place of each piece of a chunk, which lies at `begin` to `end`."""
        first = bisect_left(self._borders, begin)
        for number, (a, b) in enumerate(pairwise(self._borders[first:]), first):
            if a >= end:
                return
            yield number, slice(a - begin, b - begin)

    def table(self, *rows: int) -> Tensor:
        """Return zeros, fp64 [*rows, pieces] on the CPU."""
        return torch.zeros(*rows, len(self), dtype=torch.float64)

    def buckets(self, table: Tensor) -> Tensor:
        """Add up pieces [..., pieces] to buckets [..., buckets], in the order of positions."""
        out = torch.zeros(*table.shape[:-1], len(self.edges) - 1, dtype=torch.float64)
        bucket = 0
        for number, begin in enumerate(self._borders[:-1]):
            while begin >= self.edges[bucket + 1]:
                bucket += 1
            out[..., bucket] += table[..., number]
        return out


def total(buckets: Tensor) -> Tensor:
    """Add up the last dim from left to right."""
    out = torch.zeros_like(buckets[..., 0])
    for column in buckets.unbind(-1):
        out = out + column
    return out


def flat(tables: Sequence[Tensor]) -> Tensor:
    """All in one vector, to be summed over ranks."""
    return torch.cat([table.flatten() for table in tables])


def load(tables: Sequence[Tensor], values: Tensor) -> None:
    """Take back what `flat` gave."""
    at = 0
    for table in tables:
        table.copy_(values[at : at + table.numel()].view_as(table))
        at += table.numel()
