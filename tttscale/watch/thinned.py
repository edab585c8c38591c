"""Values by step, thinned so that a run of any length takes the same memory."""

from typing import Any

MOST_BUCKETS = 2048
LARGEST = 1e30
"""Larger values are left out, as NaN is."""


class Thinned:
    """Means and extremes of consecutive steps.

    Whenever there are too many buckets, two and two of them become one.

    Args:
        keys: the values that are kept.
        most: the most buckets.
    """

    def __init__(self, keys: tuple[str, ...], most: int = MOST_BUCKETS) -> None:
        self.keys, self._most = keys, most
        self.width = 1
        """Steps in a bucket."""
        self._buckets: dict[int, dict[str, list[float]]] = {}

    def add(self, step: int, record: dict[str, Any]) -> None:
        """Take the values of one step that are finite numbers."""
        bucket = self._buckets.setdefault((step - 1) // self.width, {})
        for key in self.keys:
            value = record.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if abs(value) < LARGEST:
                _merge(bucket, key, [1, value, value, value])
        while len(self._buckets) > self._most:
            self._widen()

    def columns(self) -> dict[str, Any]:
        """Lists by bucket, ascending: the step in the middle, the mean of each key, and loss's extremes.

        Returns:
            `step`, all keys, and for the first key KEY_low and KEY_high; None where there is no value.
        """
        places = sorted(self._buckets)
        found: dict[str, Any] = {
            "width": self.width,
            "step": [place * self.width + (self.width + 1) / 2 for place in places],
        }
        for key in self.keys:
            cells = [self._buckets[place].get(key) for place in places]
            found[key] = [None if c is None else _short(c[1] / c[0]) for c in cells]
        first = self.keys[0]
        cells = [self._buckets[place].get(first) for place in places]
        found[f"{first}_low"] = [None if c is None else _short(c[2]) for c in cells]
        found[f"{first}_high"] = [None if c is None else _short(c[3]) for c in cells]
        return found

    def _widen(self) -> None:
        self.width *= 2
        wider: dict[int, dict[str, list[float]]] = {}
        for place, bucket in self._buckets.items():
            target = wider.setdefault(place // 2, {})
            for key, cell in bucket.items():
                _merge(target, key, cell)
        self._buckets = wider


def _merge(bucket: dict[str, list[float]], key: str, cell: list[float]) -> None:
    """Add a cell of count, sum, lowest and highest to the one of `key`."""
    have = bucket.get(key)
    if have is None:
        bucket[key] = list(cell)
    else:
        have[0] += cell[0]
        have[1] += cell[1]
        have[2], have[3] = min(have[2], cell[2]), max(have[3], cell[3])


def _short(value: float) -> float:
    """Seven digits: more are not drawn."""
    return float(f"{value:.7g}")
