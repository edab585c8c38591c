from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tttscale.config.shares import SLOTS
from tttscale.data import ArraySplit, Windows
from tttscale.data.windows.blend import Blend
from tttscale.data.windows.order import sequence_groups

WEIGHTS = st.lists(st.floats(0.2, 100), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**63)


def windows(count, offset=0):
    """`count` windows of two tokens, which are their own offsets."""
    tokens = np.arange(offset, offset + 2 * count + 1)
    return Windows(ArraySplit([tokens]), 2, seed=3, mini_batch_tokens=1)


def blend_of(weights, seed):
    return Blend([windows(5 + j, 1000 * j) for j in range(len(weights))], weights, seed)


@settings(max_examples=25, deadline=None)
@given(weights=WEIGHTS, seed=SEEDS, block=st.integers(0, 10**6))
def test_every_block_takes_each_part_exactly_and_every_prefix_nearly(weights, seed, block):
    blend = blend_of(weights, seed)
    places = [blend.locate(block * SLOTS + slot) for slot in range(SLOTS)]
    for part, slots in enumerate(blend.slots):
        own = [local for j, local in places if j == part]
        assert own == [*range(block * slots, (block + 1) * slots)]
        taken = np.cumsum([j == part for j, _ in places])
        numbers = np.arange(1, SLOTS + 1)
        # A prefix is one run of 2**k aligned slots per bit of its length, and each of them has one
        # point in every 2**-k of the range: less than one too many or too few at either end.
        ones = np.array([int(n).bit_count() for n in numbers])
        assert (abs(taken - numbers * slots / SLOTS) < 2 * ones).all()


def test_any_stretch_of_a_run_is_close_to_the_weights():
    blend = blend_of([5, 2, 1], seed=11)
    for begin in range(0, 3 * SLOTS, 777):
        found = Counter(blend.locate(begin + i)[0] for i in range(64))
        assert found == pytest.approx({0: 40, 1: 16, 2: 8}, abs=5)


@settings(max_examples=25, deadline=None)
@given(weights=WEIGHTS, seed=SEEDS, step=st.integers(1, 10**6))
def test_ranks_and_earlier_calls_do_not_matter(weights, seed, step):
    def taken(replicas, batch):
        blend = blend_of(weights, seed)
        split = [sequence_groups(step, 24, replicas, r, batch) for r in range(replicas)]
        sequences = [blend.sequence(i) for share in split for group in share for i in group]
        return [sequence.chunk(0, 2).ids.tolist() for sequence in sequences]

    assert taken(1, 1) == taken(4, 3) == taken(12, 2) == taken(1, 24)


def test_each_part_has_epochs_of_its_own():
    blend = blend_of([3, 1], seed=0)
    seen = {0: [], 1: []}
    for index in range(SLOTS):
        seen[blend.locate(index)[0]].append(blend.sequence(index).chunk(0, 2).ids.tolist())
    for part, count in ((0, 5), (1, 6)):
        times = Counter(map(tuple, seen[part])).values()
        assert len(times) == count
        assert max(times) - min(times) <= 1


@pytest.mark.parametrize("count", [50, 457, 3000])
def test_no_window_comes_again_before_all_of_its_store_came(count):
    blend = Blend([windows(count), windows(7)], [1, 1], seed=0)
    places = [blend.locate(index) for index in range(4 * count + 20)]
    taken = [blend.components[0].sequence(local).number for one, local in places if one == 0]
    for epoch in (taken[:count], taken[count : 2 * count]):
        assert sorted(epoch) == [*range(count)]


def test_order_of_parts_is_frozen():
    """A change here would make resumed runs read other windows than they said they would."""
    blend = blend_of([2, 1, 1], seed=7)
    assert [blend.locate(i) for i in range(8)] == FROZEN


def test_held_out_windows_take_turns():
    blend = Blend([windows(3), windows(2, 1000)], [9, 1], seed=0)
    assert blend.count == 5
    firsts = [int(blend.window(i).chunk(0, 1).ids[0]) for i in range(5)]
    assert firsts == [0, 1000, 2, 1002, 4]
    assert Blend([windows(2), windows(3)], [1, 1], seed=0).count == 4


FROZEN = [(2, 0), (0, 0), (1, 0), (0, 1), (2, 1), (0, 2), (1, 1), (0, 3)]
