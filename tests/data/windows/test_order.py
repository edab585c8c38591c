import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tttscale.data import WindowOrder
from tttscale.data.windows.order import data_step, sequence_groups

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


@settings(max_examples=30, deadline=None)
@given(count=st.integers(20, 200), seed=SEEDS, epochs=st.tuples(SEEDS, SEEDS))
def test_epochs_differ(count, seed, epochs):
    first, second = (abs(epoch) for epoch in epochs)
    order = WindowOrder(count, seed)
    orders = [[order.window(e * count + i) for i in range(count)] for e in (first, second)]
    assert (orders[0] == orders[1]) == (first == second)


@settings(max_examples=60, deadline=None)
@given(
    replicas=st.integers(1, 6),
    batch=st.integers(1, 4),
    groups=st.integers(1, 4),
    step=st.integers(1, 10**6),
)
def test_a_step_takes_the_same_sequences_however_it_is_split(replicas, batch, groups, step):
    total = replicas * batch * groups
    split = [sequence_groups(step, total, replicas, r, batch) for r in range(replicas)]
    assert {len(group) for share in split for group in share} == {batch}
    taken = [index for share in split for group in share for index in group]
    assert taken == list(range((step - 1) * total, step * total))


RANGES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=6)


@settings(max_examples=100, deadline=None)
@given(ranges=RANGES)
def test_steps_that_are_skipped(ranges):
    """Ranges as gaps and lengths, so that they are ascending and disjoint."""
    skipped, last = [], 0
    for gap, length in ranges:
        skipped.append((last + gap, last + gap + length - 1))
        last += gap + length - 1
    left_out = {n for a, b in skipped for n in range(a, b + 1)}
    found = [data_step(step, skipped) for step in range(1, 120)]
    assert found == [n for n in range(1, 300) if n not in left_out][:119]
    assert [data_step(step, ()) for step in range(1, 9)] == [*range(1, 9)]


FROZEN = [0, 7, 8, 1, 4, 5, 9, 2, 3, 6, 5, 3, 0, 2, 1, 7, 9, 6, 4, 8]
