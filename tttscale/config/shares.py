"""The weights of a blend as whole numbers of slots."""

from collections.abc import Sequence
from fractions import Fraction

SLOTS = 4096
"""Sequences after which every store of a blend has had its share exactly; a power of two."""


def slot_counts(weights: Sequence[float]) -> list[int]:
    """Slots of each weight out of `SLOTS`, by largest remainder; a tiny weight may get none.

    Args:
        weights: positive, in any scale.
    """
    exact = [Fraction(weight) for weight in weights]  # no rounding, so equal on all machines
    shares = [weight * SLOTS / sum(exact) for weight in exact]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(counts)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: SLOTS - sum(counts)]:
        counts[i] += 1
    return counts
