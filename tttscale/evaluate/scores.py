"""Likelihoods of tokens that are asked for inside a sequence, and how intervals are written down."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tttscale.evaluate.intervals import Interval, mean_interval, wilson
from tttscale.evaluate.loss import number
from tttscale.evaluate.made_text import MadeSequence
from tttscale.evaluate.passes import Passes, Seen
from tttscale.kernels.ops.cross_entropy import IGNORED
from tttscale.kernels.precision import widened
from tttscale.model import TTTForCausalLM

_SLICE_TOKENS = 512


def logits_after(model: TTTForCausalLM, x: Tensor, vocabulary: int) -> Tensor:
    """Logits of the next token.

    Args:
        model: whose head is used.
        x: the residual stream after the last block, [..., D].
        vocabulary: ids of the tokenizer; a model's vocabulary may be padded, and no text has such tokens.

    Returns:
        fp32 (or wider) [..., vocabulary].
    """
    _, x = model.model.norm(x)
    return widened(model.operators.linear(x, model.lm_head.weight))[..., :vocabulary]


class AskedTokens:
    """Scores of the tokens that are asked for, on the ranks of their chunks."""

    def __init__(
        self, passes: Passes, sequences: Sequence[MadeSequence], choices: Tensor, vocabulary: int
    ) -> None:
        """Score nothing yet.

        Args:
            passes: of the sequences' length.
            sequences: all ask for the same positions.
            choices: token ids that may be the answer, int64.
            vocabulary: ids of the tokenizer.
        """
        self._model, self._vocabulary = passes.model, vocabulary
        self._choices = choices.to(passes.device)
        self._places = torch.from_numpy(sequences[0].asked)
        self.table = torch.zeros(3, len(sequences), len(self._places), dtype=torch.float64)
        """Losses in nats; whether a token is the likeliest of all; and of the choices."""

    def see(self, seen: Seen) -> None:
        """Score what a chunk has."""
        labels = seen.batch.labels
        rows, at = (labels != IGNORED).nonzero(as_tuple=True)
        places = torch.searchsorted(self._places, at.cpu() + seen.batch.chunk.begin + 1)
        for begin in range(0, len(rows), _SLICE_TOKENS):
            part = slice(begin, begin + _SLICE_TOKENS)
            wanted = labels[rows[part], at[part]]
            scored = self._score(seen.x[rows[part], at[part]], wanted)
            self.table[:, rows[part].cpu() + seen.rows.start, places[part]] = scored

    def _score(self, x: Tensor, wanted: Tensor) -> Tensor:
        likely = logits_after(self._model, x, self._vocabulary).log_softmax(-1)
        own = likely.gather(-1, wanted.unsqueeze(-1))
        among = self._choices[likely[:, self._choices].argmax(-1)]
        found = (-own[:, 0].double(), likely.argmax(-1) == wanted, among == wanted)
        return torch.stack([values.double() for values in found]).cpu()


def score_asked(
    passes: Passes,
    sequences: Sequence[MadeSequence],
    choices: Tensor,
    vocabulary: int,
    summed: Callable[[Tensor], Tensor],
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Score the sequences of one cell; every rank calls this and has the result.

    Args:
        passes: of their length.
        sequences: all ask for the same positions.
        choices: token ids that may be the answer, int64.
        vocabulary: ids of the tokenizer.
        summed: sums a tensor over the ranks, in place.
        told: is told how many sequences are done.
    """
    scores = AskedTokens(passes, sequences, choices, vocabulary)
    passes.run(sequences, scores.see, told=told)
    losses, greedy, chosen = summed(scores.table)
    each = float(losses.shape[1])
    return {
        "samples": len(sequences),
        "answer_tokens": int(each),
        "choices": len(choices),
        "chosen": interval(wilson(float(chosen.sum()), chosen.numel())),
        "likeliest": interval(wilson(float(greedy.sum()), greedy.numel())),
        "exact": interval(wilson(float(greedy.bool().all(1).sum()), len(sequences))),
        "loss": interval(mean_interval(losses.sum(1).tolist(), [each] * len(sequences))),
    }


def interval(found: Interval) -> dict[str, float | None]:
    """Write an interval as eval.json has it."""
    return {name: number(getattr(found, name)) for name in ("value", "low", "high")}
