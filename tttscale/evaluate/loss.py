"""Task `loss`: loss and perplexity by position in the context, with intervals over sequences."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tttscale.evaluate.intervals import LEVEL, mean_interval
from tttscale.evaluate.passes import Passes, Seen
from tttscale.evaluate.pieces import Pieces, flat, load, total
from tttscale.kernels.ops.cross_entropy import IGNORED
from tttscale.scan.reader import TokenSequence


class PositionLosses:
    """Losses of every sequence, by piece; a rank has those of its own chunks."""

    def __init__(self, passes: Passes, sequences: int) -> None:
        self._model = passes.model
        self.pieces = Pieces(passes.split.length_tokens, passes.split.chunk_tokens)
        self.sums = self.pieces.table(sequences)
        """Sums of token losses in nats, fp64 [sequences, pieces]."""
        self.counts = self.pieces.table(sequences)
        """Tokens with a loss."""
        self.tables = (self.sums, self.counts)

    def see(self, seen: Seen) -> None:
        """Enter a chunk."""
        labels = seen.batch.labels
        _, losses = self._model.head(seen.x, labels)
        values, valid = losses.double().cpu(), (labels != IGNORED).double().cpu()
        begin = seen.batch.chunk.begin
        rows = slice(seen.rows.start, seen.rows.stop)
        for piece, at in self.pieces.inside(begin, begin + labels.shape[1]):
            self.sums[rows, piece] = values[:, at].sum(1)
            self.counts[rows, piece] = valid[:, at].sum(1)

    def result(self) -> dict[str, Any]:
        """What eval.json says of them, once the ranks' tables are summed."""
        sums, counts = self.pieces.buckets(self.sums), self.pieces.buckets(self.counts)
        columns = zip(sums.t().tolist(), counts.t().tolist(), strict=True)
        buckets = [mean_interval(*column) for column in columns]
        whole = mean_interval(total(sums).tolist(), total(counts).tolist())
        return {
            "length": self.pieces.edges[-1],
            "sequences": len(sums),
            "tokens": int(counts.sum()),
            "loss": number(whole.value),
            "low": number(whole.low),
            "high": number(whole.high),
            "perplexity": _perplexity(whole.value),
            "bits_per_token": number(whole.value / math.log(2)),
            "level": LEVEL,
            "interval": "Student's t over sequences, of the ratio of their summed losses and tokens",
            "positions": {
                "edges": self.pieces.edges,
                "loss": [number(b.value) for b in buckets],
                "low": [number(b.low) for b in buckets],
                "high": [number(b.high) for b in buckets],
                "perplexity": [_perplexity(b.value) for b in buckets],
                "tokens": [int(c) for c in counts.sum(0).tolist()],
            },
        }


def loss_by_position(
    passes: Passes,
    sequences: Sequence[TokenSequence],
    summed: Callable[[Any], Any],
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Measure; every rank calls this and has the result.

    Args:
        passes: of the sequences' length.
        sequences: with their labels.
        summed: sums a tensor over the ranks, in place.
        told: is told how many sequences are done.
    """
    losses = PositionLosses(passes, len(sequences))
    passes.run(sequences, losses.see, told=told)
    load(losses.tables, summed(flat(losses.tables)))
    return losses.result()


def number(value: float) -> float | None:
    """Return a number as JSON has it: None where there is none."""
    return value if math.isfinite(value) else None


def _perplexity(loss: float) -> float | None:
    try:
        return number(math.exp(loss))
    except OverflowError:
        return None
