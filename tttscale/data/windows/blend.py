"""Several stores as one source of sequences: which of them comes next is a function of the index."""

from collections.abc import Sequence as Items
from functools import lru_cache

import numpy as np

from tttscale.config.shares import SLOTS, slot_counts
from tttscale.data.windows.order import stable_hash
from tttscale.data.windows.window import Sequence, Windows

_BITS = SLOTS.bit_length() - 1
_POINTS = np.array([int(f"{slot:0{_BITS}b}"[::-1], 2) for slot in range(SLOTS)])
"""Reversed bits of each slot."""
_KEPT_BLOCKS = 4


class Blend:
    """Windows of several stores, each in its own order and with its own epochs, by weight.

    The run's sequences are cut into blocks of 4096 slots, of which every part has a fixed number of
    points p. Slot s of block b goes to p = reversed bits of s, XOR a hash of b: such points lie so
    evenly that each piece of a run, not only the whole block, is close to the weights. A part's own
    sequences are taken one after the other, so each of its windows comes once before any comes again.
    No state, so neither resuming nor the number of ranks matters.

    Args:
        parts: The windows of each store, all of one length.
        weights: Positive; each large enough for one slot (the configuration is checked for this).
        seed: Seed of the order of the parts. The order inside a part is its own.

    Attributes:
        count: Windows that `window` can give, round-robin over the parts.
    """

    def __init__(self, parts: Items[Windows], weights: Items[float], seed: int) -> None:
        assert len(parts) == len(weights) > 0, (len(parts), weights)
        assert len({part.sequence_tokens for part in parts}) == 1
        self.parts = tuple(parts)
        self.slots = slot_counts(weights)
        assert all(self.slots), weights
        self._ends, self._seed = np.cumsum(self.slots), seed
        self._parts_of = lru_cache(_KEPT_BLOCKS)(self._deal)
        self.sequence_tokens = parts[0].sequence_tokens
        self.count = min(part.count * len(parts) + j for j, part in enumerate(parts))

    def place(self, index: int) -> tuple[int, int]:
        """The part of the run's `index`-th sequence, and which of that part's sequences it is.

        In every block each part takes its next ones, one after the other.
        """
        assert index >= 0, index
        block, slot = divmod(index, SLOTS)
        parts = self._parts_of(block)
        part = int(parts[slot])
        return part, block * self.slots[part] + int(np.count_nonzero(parts[:slot] == part))

    def _deal(self, block: int) -> np.ndarray:
        """The part of each slot of a block, int64 [4096]."""
        points = _POINTS ^ stable_hash(self._seed, block) % SLOTS
        return np.searchsorted(self._ends, points, side="right")

    def sequence(self, index: int) -> Sequence:
        """The `index`-th sequence of the run, index = (step - 1) * sequences_per_step + i."""
        part, local = self.place(index)
        return self.parts[part].sequence(local)

    def window(self, number: int) -> Sequence:
        """Window `number` of `count`: the parts in turn, each in the order of its text."""
        assert 0 <= number < self.count, (number, self.count)
        local, part = divmod(number, len(self.parts))
        return self.parts[part].window(local)
