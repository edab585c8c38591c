"""Choosing the next token from logits: greedy, or drawn after the usual filters.

The filters and their order are those of Hugging Face transformers: temperature, top-k, top-p, min-p.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tttscale.errors import ConfigError, NumericsError

_OUT = float("-inf")
_COLDEST = 1e-30
"""Least divisor of logits: by less they would overflow, and the most likely token is certain already."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """Logits are divided by it; 0 takes the most likely token, and no filter applies."""
    top_k: int | None = None
    """Draw from so many of the most likely tokens; None: all."""
    top_p: float | None = None
    """Only the fewest most likely tokens whose probabilities sum up to it; None: all."""
    min_p: float | None = None
    """Only tokens at least so likely as this share of the most likely one; None: all."""
    seed: int = 0
    """Seed of the draws; row r of a batch has its own generator, of seed + r."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a value is out of its range.
        """
        if not 0 <= self.temperature < float("inf"):
            _refuse("temperature", self.temperature, "a number from 0 (the most likely token)")
        if self.top_k is not None and self.top_k < 1:
            _refuse("top_k", self.top_k, "a number from 1")
        for name, least in (("top_p", "more than 0"), ("min_p", "at least 0")):
            value = getattr(self, name)
            if value is not None and not (0 <= value <= 1 and (value > 0 or name == "min_p")):
                _refuse(name, value, f"a share of {least} and at most 1")
        if not 0 <= self.seed < 2**63:
            _refuse("seed", self.seed, "a whole number from 0")


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [..., V] at this temperature (> 0); -inf for tokens that cannot be drawn, never for all."""
    logits = logits / max(sampling.temperature, _COLDEST)
    if sampling.top_k is not None:
        least = logits.topk(min(sampling.top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, _OUT)
    if sampling.top_p is not None and sampling.top_p < 1:
        ascending, order = logits.sort()
        out = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        out[..., -1] = False
        logits = logits.masked_fill(torch.zeros_like(out).scatter(-1, order, out), _OUT)
    if sampling.min_p is not None:
        likely = logits.softmax(-1)
        out = likely < sampling.min_p * likely.amax(-1, keepdim=True)
        logits = logits.masked_fill(out, _OUT)
    return logits


class Sampler:
    """Draws the next tokens of some rows; what a row draws does not depend on the others."""

    def __init__(self, sampling: Sampling, rows: int) -> None:
        self._sampling = sampling
        self._generators = [
            torch.Generator().manual_seed(sampling.seed + row) for row in range(rows)
        ]

    def draw(self, logits: Tensor, rows: Sequence[int]) -> list[int]:
        """Choose the next token of each of these rows.

        Args:
            logits: [n, V] of the rows.
            rows: their numbers.

        Raises:
            NumericsError: the logits are not finite.
        """
        check_logits(logits)
        if self._sampling.temperature == 0:
            return logits.argmax(-1).tolist()
        likely = filtered(logits.float(), self._sampling).softmax(-1).cpu()
        return [
            int(torch.multinomial(of, 1, generator=self._generators[row]))
            for of, row in zip(likely, rows, strict=True)
        ]


def check_logits(logits: Tensor) -> None:
    """Refuse logits [..., V] from which no token can be chosen.

    Raises:
        NumericsError: one is NaN or infinite.
    """
    if not bool(logits.amax(-1).isfinite().all()):
        raise NumericsError(
            "the logits are not finite numbers, so no token can be chosen. Compute with wider parameters "
            "(--dtype float32, dtype=torch.float32); if they are not finite in fp32 either, the weights or "
            "the state are at fault"
        )


def _refuse(name: str, value: float, wanted: str) -> None:
    flag = "--" + name.replace("_", "-")
    raise ConfigError(f"{name} ({flag}) = {value}: expected {wanted}.")
