"""A blend of several stores: which store a sequence comes from is a function of its index."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tttscale.config.shares import SLOTS, slot_counts
from tttscale.data.windows.order import stable_hash
from tttscale.data.windows.window import Window, Windows

_BITS = SLOTS.bit_length() - 1
_POINTS = np.array([int(f"{slot:0{_BITS}b}"[::-1], 2) for slot in range(SLOTS)])
"""Reversed bits of each slot."""
_CACHED_CYCLES = 4


class Blend:
    """Windows of several stores, each in its own order and with its own epochs, by weight.

    The run's sequences are numbered in cycles of 4096 slots, of which every component has a fixed
    number of points p. Slot s of cycle c goes to p = reversed bits of s, XOR a hash of c: such points
    are spread so evenly that every stretch of a run, not only a whole cycle, is close to the weights.
    A component's own sequences are taken one after the other, so each of its windows is read once
    before any is read again. There is no state, so neither resuming nor the number of ranks matters.

    Args:
        components: the windows of each store, all of one length.
        weights: positive; each large enough for one slot (the configuration is checked for this).
        seed: seed of the order of the components. The order inside a component is its own.
    """

    def __init__(self, components: Sequence[Windows], weights: Sequence[float], seed: int) -> None:
        assert len(components) == len(weights) > 0, (len(components), weights)
        assert len({one.sequence_tokens for one in components}) == 1
        self.components = tuple(components)
        self.slots = slot_counts(weights)
        assert all(self.slots), weights
        self._ends, self._seed = np.cumsum(self.slots), seed
        self._components_of = lru_cache(_CACHED_CYCLES)(self._assign)
        self.sequence_tokens = components[0].sequence_tokens
        self.count = min(one.count * len(components) + j for j, one in enumerate(components))
        """Windows that `window` can return, round-robin over the components."""

    def locate(self, index: int) -> tuple[int, int]:
        """The component of the run's `index`-th sequence, and which of its own sequences it is.

        In every cycle each component continues where it ended in the cycle before.
        """
        assert index >= 0, index
        cycle, slot = divmod(index, SLOTS)
        assigned = self._components_of(cycle)
        component = int(assigned[slot])
        before = int(np.count_nonzero(assigned[:slot] == component))
        return component, cycle * self.slots[component] + before

    def _assign(self, cycle: int) -> np.ndarray:
        """The component of each slot of a cycle, int64 [4096]."""
        points = _POINTS ^ stable_hash(self._seed, cycle) % SLOTS
        return np.searchsorted(self._ends, points, side="right")

    def sequence(self, index: int) -> Window:
        """The `index`-th sequence of the run, index = (step - 1) * sequences_per_step + i."""
        component, local = self.locate(index)
        return self.components[component].sequence(local)

    def window(self, number: int) -> Window:
        """Window `number` of `count`: the components in turn, each in the order of its text."""
        assert 0 <= number < self.count, (number, self.count)
        local, component = divmod(number, len(self.components))
        return self.components[component].window(local)
