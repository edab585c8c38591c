"""Task `inner`: the inner loss before and after each inner step, by layer and position."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from torch import Tensor

from tttscale.errors import ConfigError
from tttscale.evaluate.loss import number
from tttscale.evaluate.passes import Passes, Seen
from tttscale.evaluate.pieces import Pieces
from tttscale.kernels.torch_scan.inner_losses import inner_losses
from tttscale.model.chunk import Chunk
from tttscale.model.ttt_layer import ScanInputs, ScanWatch, TTTLayer
from tttscale.scan.reader import TokenSequence

MEASURES = ("initial", "before", "after")
"""At the initial weights; at those in front of a token's mini-batch; at those after it."""


class InnerWatch:
    """Inner losses of this rank's chunks, by layer, sequence and piece."""

    def __init__(self, passes: Passes, sequences: int) -> None:
        """Measure nothing yet.

        Raises:
            ConfigError: the model has no TTT layer.
        """
        blocks = enumerate(passes.model.carry_layers)
        mixers = [(n, block.seq_modeling_block) for n, block in blocks]
        self.layers = [(n, mixer) for n, mixer in mixers if isinstance(mixer, TTTLayer)]
        """TTT layers and their numbers."""
        if not self.layers:
            raise ConfigError(
                "--task inner: the model has no TTT layer, whose inner loss this measures."
            )
        self.pieces = Pieces(passes.split.length_tokens, passes.split.chunk_tokens)
        self.table = self.pieces.table(len(MEASURES), len(self.layers), sequences)
        """Sums over tokens of the mean over heads."""
        self.sequence = 0
        """The one that is read now."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all layers inside."""
        try:
            for place, (_, mixer) in enumerate(self.layers):
                mixer.watch = self._watch(place, mixer)
            yield
        finally:
            for _, mixer in self.layers:
                mixer.watch = None

    def _watch(self, place: int, mixer: TTTLayer) -> ScanWatch:
        def measure(given: ScanInputs, chunk: Chunk) -> None:
            """Enter one chunk at one layer."""
            losses = inner_losses(mixer.kind, *given, mixer.config.mini_batch_size)
            for measure, values in enumerate(losses):
                tokens = values.double().mean(1)[0].cpu()
                for piece, at in self.pieces.inside(chunk.begin, chunk.begin + len(tokens)):
                    self.table[measure, place, self.sequence, piece] = tokens[at].sum()

        return measure

    def result(self) -> dict[str, Any]:
        """What eval.json says of them, once the ranks' tables are summed."""
        buckets, edges = self.pieces.buckets(self.table), self.pieces.edges
        sequences = self.table.shape[2]
        tokens = [b - a for a, b in pairwise(edges)]
        means = buckets.sum(2) / buckets.new_tensor(tokens) / sequences
        return {
            "length": edges[-1],
            "sequences": sequences,
            "measure": "mean squared error of the inner learner, over tokens, heads and features",
            "edges": edges,
            "layers": [
                {"layer": n}
                | {
                    name: [number(value) for value in means[measure, place].tolist()]
                    for measure, name in enumerate(MEASURES)
                }
                for place, (n, _) in enumerate(self.layers)
            ],
        }


def inner_by_position(
    passes: Passes,
    sequences: Sequence[TokenSequence],
    summed: Callable[[Tensor], Tensor],
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Measure; every rank calls this and has the result.

    Args:
        passes: of the sequences' length.
        sequences: no document starts inside; they are read one after the other.
        summed: sums a tensor over the ranks, in place.
        told: is told how many sequences are done.
    """
    watch = InnerWatch(passes, len(sequences))
    with watch.watching():
        for watch.sequence, sequence in enumerate(sequences):
            passes.run([sequence], _nothing)
            told(watch.sequence + 1)
    summed(watch.table)
    return watch.result()


def _nothing(seen: Seen) -> None:
    """Nothing is asked of the head."""
