"""Losses of a step, chunk by chunk, in a form that adds up alike for every number of ranks."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tttscale.kernels.ops.cross_entropy import IGNORED

_FIRST_BUCKET_TOKENS = 64


def position_edges(length_tokens: int) -> list[int]:
    """Borders of the buckets for the loss by position: 0, 64, then two per octave up to the length."""
    edges, i = [0], 0
    while (edge := round(_FIRST_BUCKET_TOKENS * 2 ** (i / 2))) < length_tokens:
        edges.append(edge)
        i += 1
    return [*edges, length_tokens]


@dataclass
class Losses:
    """Sums over own chunks; zero elsewhere, so that ranks add up exactly.

    A sequence's loss is the sum of its chunks in chunk order. Adding zeros is exact, hence the result
    does not depend on which rank owned which chunk.
    """

    sums: Tensor
    """fp64 [M, n, B] on the CPU: sum of token losses in nats."""
    counts: Tensor
    """fp64 [M, n, B]: unmasked tokens."""
    position_sums: Tensor
    """fp64 [P] by position bucket."""
    position_counts: Tensor
    """fp64 [P]."""
    edges: list[int]
    _noted: list[tuple[int, int, int, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def empty(cls, sequences: int, chunks: int, batch: int, length_tokens: int) -> "Losses":
        """All zero."""
        edges = position_edges(length_tokens)
        shape, buckets = (sequences, chunks, batch), (len(edges) - 1,)

        def zeros(size: tuple[int, ...]) -> Tensor:
            return torch.zeros(size, dtype=torch.float64)

        return cls(zeros(shape), zeros(shape), zeros(buckets), zeros(buckets), edges)

    def add(self, sequence: int, chunk: int, begin: int, losses: Tensor, labels: Tensor) -> None:
        """Enter one chunk: losses and labels [B, C], `begin` its first position.

        On a GPU it is only noted, since looking at it would wait for the GPU; see `settle`.
        """
        self._noted.append((sequence, chunk, begin, losses.detach(), labels))
        if losses.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Enter what was noted; to be called before the fields are read."""
        for noted in self._noted:
            self._enter(*noted)
        self._noted.clear()

    def _enter(self, sequence: int, chunk: int, begin: int, losses: Tensor, labels: Tensor) -> None:
        losses = losses.to("cpu", torch.float64)
        valid = (labels != IGNORED).to("cpu", torch.float64)
        self.sums[sequence, chunk] = losses.sum(1)
        self.counts[sequence, chunk] = valid.sum(1)
        positions = torch.arange(begin, begin + losses.shape[1])
        buckets = torch.bucketize(positions, torch.tensor(self.edges[1:]), right=True)
        self.position_sums.index_add_(0, buckets, losses.sum(0))
        self.position_counts.index_add_(0, buckets, valid.sum(0))

    def flat(self) -> Tensor:
        """Everything in one vector, to be summed over ranks."""
        parts = (self.sums, self.counts, self.position_sums, self.position_counts)
        return torch.cat([part.flatten() for part in parts])

    def load(self, flat: Tensor) -> None:
        """Take back what `flat` gave, summed over ranks."""
        at = 0
        for part in (self.sums, self.counts, self.position_sums, self.position_counts):
            part.copy_(flat[at : at + part.numel()].view_as(part))
            at += part.numel()

    @property
    def sequence_sums(self) -> Tensor:
        """fp64 [M, B], summed over chunks in order."""
        total = torch.zeros_like(self.sums[:, 0])
        for chunk in self.sums.unbind(1):
            total = total + chunk
        return total
