"""Confidence intervals: of a mean over sequences (Student's t), and of a share of trials (Wilson)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95
"""Share of intervals that hold the true value."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval."""

    value: float
    low: float
    high: float


def mean_interval(sums: Sequence[float], counts: Sequence[float]) -> Interval:
    """Estimate a mean per token from sequences, which are independent of each other where tokens are not.

    The value is the mean over all tokens; its error is that of a ratio of two sums over sequences, and with
    equal counts the interval is the usual t-interval of the sequences' means.

    Args:
        sums: of each sequence.
        counts: tokens of each sequence.

    Returns:
        NaN without a token, and no interval (NaN) from a single sequence.
    """
    pairs = [(s, c) for s, c in zip(sums, counts, strict=True) if c]
    total = math.fsum(c for _, c in pairs)
    if not total:
        return Interval(math.nan, math.nan, math.nan)
    mean, n = math.fsum(s for s, _ in pairs) / total, len(pairs)
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    squares = math.fsum((s - mean * c) ** 2 for s, c in pairs)
    error = math.sqrt(squares * n / (n - 1)) / total
    reach = student_t(n - 1) * error
    return Interval(mean, mean - reach, mean + reach)


def student_t(degrees: int, level: float = LEVEL) -> float:
    """Return the t for which a share `level` of Student's distribution lies between -t and t."""
    low, high = 0.0, 1.0
    while _between(high, degrees) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if _between(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return high


def wilson(successes: float, trials: float, level: float = LEVEL) -> Interval:
    """Return a share of trials with Wilson's score interval, which stays inside [0, 1]."""
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    z, share = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    middle = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    low, high = (middle - reach) / scale, (middle + reach) / scale
    # Rounding would move the ends of none and of all off 0 and 1.
    return Interval(
        share, max(0.0, low) if successes else 0.0, min(1.0, high) if successes < trials else 1.0
    )


def _between(t: float, degrees: int) -> float:
    """Probability of (-t, t) under Student's distribution: a finite sum for whole degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    if degrees == 1:
        return 2 * angle / math.pi
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(degrees // 2):
        total += term
        term *= square * (2 * k + 2) / (2 * k + 3) if odd else square * (2 * k + 1) / (2 * k + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
