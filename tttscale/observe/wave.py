"""A step in closed form, from what a trace shows: for what another chunk length or layout would change.

A model of a handful of numbers, good to a few per cent; `tttscale.plan` simulates the schedule itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tttscale.observe.overlap import Overlap
from tttscale.observe.span_table import COMPUTE, key_of, typical_sum
from tttscale.observe.spans import Trace

_MOST_CHUNKS_PER_RANK = 16
_NEARLY = 0.75


@dataclass(frozen=True)
class Wave:
    """Sweeps of one replica."""

    ranks: int
    sequences: int
    chunks: int
    """Chunks of a sequence."""
    layers: int
    contiguous: bool
    chunk_seconds: float
    """All compute of one chunk: median."""
    layer_seconds: float
    """Compute of one layer of a chunk: median."""
    advance_seconds: float
    """A chunk's advance of one layer, forward and backward: medians."""
    wire_seconds: float
    """A state's and a gradient's hand-over on an ordinary edge."""
    shortest: float = 0.0
    """Chunks cannot be cut into more pieces than this; 0: not known."""

    @classmethod
    def of(cls, trace: Trace, found: Overlap) -> "Wave | None":
        """Read the numbers off a trace; None with a single rank per sequence, or no work."""
        table, step = found.table, found.steps[0]
        work = table.take((table.step >= 0) & table.of(*COMPUTE) & (table.chunk >= 0))
        if step.sequence_ranks < 2 or not len(work.begin):
            return None
        chunk = key_of(work.step, work.replica, work.sequence, work.chunk)
        in_layers = work.layer >= 0
        layer = key_of(chunk[in_layers], work.layer[in_layers])
        advances = [
            one.chain.forward_advance_seconds + one.chain.backward_advance_seconds
            for one in found.steps
        ]
        wires = [one.chain.wire_seconds for one in found.steps]
        tokens, mini_batch = (
            trace.facts.get(name) for name in ("chunk_tokens", "mini_batch_tokens")
        )
        return cls(
            step.sequence_ranks,
            int(work.sequence.max()) + 1,
            int(work.chunk.max()) + 1,
            int(work.layer.max()) + 1,
            trace.facts.get("layout") == "contiguous",
            typical_sum(chunk, work.seconds),
            typical_sum(layer, work.seconds[in_layers]),
            float(np.median(advances)),
            float(np.median(wires)),
            tokens / mini_batch if tokens and mini_batch else 0.0,
        )

    @property
    def work_seconds(self) -> float:
        """All compute of the replica."""
        return self.sequences * self.chunks * self.chunk_seconds

    @property
    def hop_seconds(self) -> float:
        """What a layer's state and gradient need from a rank to the next."""
        return self.advance_seconds + self.wire_seconds

    @property
    def chain_seconds(self) -> float:
        """What is computed one after the other: one layer through a sequence, both ways."""
        return self.chunks * self.advance_seconds

    def seconds(self) -> float:
        """Both sweeps: the fullest rank's work after the wave has come to it, or the chain and one chunk."""
        reached = min(-(-self.ranks // self.sequences), self.chunks) - 1
        if self.contiguous:
            work = self.sequences * -(-self.chunks // self.ranks) * self.chunk_seconds
            # The last layer takes longest, since the head comes with it.
            last = self.chunk_seconds - (self.layers - 1) * self.layer_seconds
            return work + reached * (
                max(0.0, self.chunks / self.ranks - 1) * last + self.hop_seconds
            )
        own = -(-self.sequences * self.chunks // self.ranks)
        work = own * self.chunk_seconds + reached * self.hop_seconds
        return max(work, (self.chunks - 1) * self.hop_seconds + self.chunk_seconds)

    def striped(self) -> "Wave":
        """These sweeps with a striped layout."""
        return replace(self, contiguous=False)

    def cut(self, pieces: int) -> "Wave":
        """These sweeps with every chunk cut into equal pieces; messages take as long as before."""
        return replace(
            self,
            chunks=self.chunks * pieces,
            chunk_seconds=self.chunk_seconds / pieces,
            layer_seconds=self.layer_seconds / pieces,
            advance_seconds=self.advance_seconds / pieces,
        )

    def best_cut(self) -> tuple[int, float]:
        """Into how many pieces chunks should be cut, striped, and the seconds that this saves.

        The fewest pieces that save nearly as much as the best number: a shorter chunk has costs of its own.
        """
        gains = {cut: self.seconds() - self.striped().cut(cut).seconds() for cut in self._cuts()}
        best = max(gains.values(), default=0.0)
        good = [cut for cut, gain in gains.items() if gain >= _NEARLY * best]
        return (min(good), gains[min(good)]) if best > 0 else (1, 0.0)

    def _cuts(self) -> Iterator[int]:
        """Powers of two, as long as ranks do not get too many chunks."""
        for power in range(1, int(math.log2(_MOST_CHUNKS_PER_RANK)) + 1):
            pieces = 2**power
            few = self.chunks * self.sequences * pieces <= _MOST_CHUNKS_PER_RANK * self.ranks
            if few and not 0 < self.shortest < pieces:
                yield pieces
