"""The weights of a blend as whole numbers of slots."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tttscale.config.shares import SLOTS, slot_counts


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20))
def test_slots_are_the_weights_to_less_than_one(weights):
    counts = slot_counts(weights)
    assert sum(counts) == SLOTS
    exact = np.array(weights) / sum(weights) * SLOTS
    assert (abs(counts - exact) < 1 + 1e-6).all()
    assert slot_counts([weight * 2 for weight in weights]) == counts
