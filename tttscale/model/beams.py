"""Beam search: the likeliest continuation of a prompt, by several that are followed side by side."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.errors import ConfigError
from tttscale.model.decode_state import DecodeState
from tttscale.model.decoder import Decoder
from tttscale.model.sampling import check_logits


@dataclass(frozen=True)
class Beams:
    """How a search is done."""

    count: int
    """Continuations that are followed."""
    length_penalty: float = 1.0
    """A continuation's score is its log-probability over its tokens to the power of this."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a value is out of its range.
        """
        if self.count < 1:
            raise ConfigError(f"beams = {self.count}: expected a number from 1.")
        if not 0 <= self.length_penalty < math.inf:
            raise ConfigError(f"length_penalty = {self.length_penalty}: expected a number from 0.")

    def score(self, log_probability: float, tokens: int) -> float:
        """Return the score of a continuation."""
        return log_probability / tokens**self.length_penalty


@dataclass(frozen=True)
class _Ended:
    """A continuation that ends."""

    score: float
    ids: list[int]
    before: DecodeState
    """State of one row before its last token."""


def search(
    decoder: Decoder,
    logits: Tensor,
    beams: Beams,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
) -> tuple[list[int], DecodeState]:
    """Find the continuation of one row with the best score.

    Args:
        decoder: of one row; it is at the end of what the search tried last afterwards.
        logits: [1, V] of what follows.
        beams: how many, and how they are scored.
        max_new_tokens: of a continuation, from 1.
        stop_ids: tokens that end one.

    Returns:
        The tokens, and the state after all of them.

    Raises:
        NumericsError: logits are not finite.
    """
    live: list[list[int]] = [[]]
    sums = torch.zeros(1, dtype=torch.float64)
    found: _Ended | None = None
    for length in range(1, max_new_tokens + 1):
        check_logits(logits)
        likely = logits.double().log_softmax(-1).cpu() + sums[:, None]
        best = likely.flatten().topk(min(2 * beams.count, likely.numel()))
        parents, tokens, kept = list[int](), list[int](), list[float]()
        for place, (total, index) in enumerate(
            zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ):
            parent, token = divmod(index, likely.shape[1])
            if token in stop_ids or length == max_new_tokens:
                score = beams.score(total, length)
                if place < beams.count and (found is None or score > found.score):
                    before = decoder.state.rows([parent])
                    found = _Ended(score, [*live[parent], token], before)
            elif len(parents) < beams.count:
                parents, tokens, kept = [*parents, parent], [*tokens, token], [*kept, total]
        # Log-probabilities only fall: none that is followed gets a better score than this.
        if not parents or (found and found.score >= beams.score(kept[0], max_new_tokens)):
            break
        live = [[*live[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        sums = torch.tensor(kept, dtype=torch.float64)
        decoder.state = decoder.state.rows(parents)
        logits = decoder.read(torch.tensor(tokens, device=logits.device)[:, None])
    assert found is not None
    last = Decoder(decoder.model, found.before)
    last.read(torch.tensor([found.ids[-1:]], device=logits.device))
    return found.ids, last.state
