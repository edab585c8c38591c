import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tttscale.data import WindowOrder

COUNTS = st.integers(1, 200)
SEEDS = st.integers(-(2**70), 2**70)


@settings(max_examples=40, deadline=None)
@given(count=COUNTS, seed=SEEDS, epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(count, seed, epoch):
    order = WindowOrder(count, seed)
    windows = [order.window(epoch * count + i) for i in range(count)]
    assert sorted(windows) == list(range(count))


@settings(max_examples=40, deadline=None)
@given(count=COUNTS, seed=SEEDS, indices=st.lists(st.integers(0, 10**9), min_size=1, max_size=8))
def test_a_window_depends_on_no_other_call(count, seed, indices):
    order = WindowOrder(count, seed)
    forward = [order.window(i) for i in indices]
    assert [order.window(i) for i in reversed(indices)] == forward[::-1]
    assert [WindowOrder(count, seed).window(i) for i in indices] == forward


def test_seeds_and_epochs_give_other_orders():
    def take(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(WindowOrder(100, seed).window(epoch * 100 + i) for i in range(100))

    assert len({take(seed, epoch) for seed in range(5) for epoch in range(5)}) == 25


def test_order_is_frozen():
    """A change here would make resumed runs read other windows than they said they would."""
    assert [WindowOrder(10, 7).window(i) for i in range(20)] == FROZEN


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_windows_reach_every_first_place(count):
    firsts = {WindowOrder(count, seed).window(0) for seed in range(40)}
    assert firsts == set(range(count))


FROZEN = [0, 7, 8, 1, 4, 5, 9, 2, 3, 6, 5, 3, 0, 2, 1, 7, 9, 6, 4, 8]
