"""The serial chain and the least time of a step, by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plan.helpers import PARTS, schedule, simple_costs
from tttscale.observe.overlap import analyse
from tttscale.plan.bounds import possible
from tttscale.plan.costs import Line, Wire
from tttscale.plan.message_bytes import MessageBytes
from tttscale.plan.simulate import simulate
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Schedule

PASSING = 2 * 3 * (1 + 0.25 + 0.5 + 2)
"""One chunk through two layers, forward and back: a backward takes twice as long."""
ADVANCE = 0.25 + 0.5


def bounds(work=0.0, wire=(0.0, 1e12), send=0.0, ranks_per_host=8, size=0, **kind):
    made = schedule(**kind)
    sizes = MessageBytes(made, lambda key: size)
    return possible(made, sizes, simple_costs(wire=wire, send=send), ranks_per_host, work)


def test_a_chain_is_every_chunks_advance_there_and_back():
    chain, least = bounds(chunks=4)
    assert chain == pytest.approx(4 * ADVANCE)
    assert least == pytest.approx(chain + PASSING - ADVANCE)


def test_a_hand_over_between_ranks_takes_send_and_wire_both_ways():
    chain, _ = bounds(chunks=4, wire=(0.125, 1000.0), send=0.0625, size=500)
    assert chain == pytest.approx(4 * ADVANCE + 3 * 2 * (0.125 + 0.5 + 0.0625))


def test_contiguous_neighbours_hand_over_for_nothing():
    chain, _ = bounds(kind="contiguous", chunks=4, wire=(0.125, 1e12))
    assert chain == pytest.approx(4 * ADVANCE + 1 * 2 * 0.125)


def test_between_hosts_the_slower_link_counts():
    chain, _ = bounds(chunks=4, wire=(0.125, 1e12), ranks_per_host=1)
    assert chain == pytest.approx(4 * ADVANCE + 3 * 2 * 1.25)


def test_much_work_is_divided_evenly_after_the_wave_has_arrived():
    _, least = bounds(work=4000.0, chunks=64, ranks=4)
    assert least == pytest.approx(1000.0 + (0 + 1 + 2 + 3) / 4 * ADVANCE)  # a mean over the ranks
    _, with_waves = bounds(work=4000.0, chunks=64, ranks=4, sequences=4)
    assert with_waves == pytest.approx(1000.0)  # each rank begins with a sequence of its own


SECONDS = st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.0])
NAMES = [
    f"{alone}{run}.{activity}"
    for alone in ("", "alone.")
    for run in ("forward", "recompute", "backward")
    for activity in ("project", "advance", "send", "readout", "finish")
]
KINDS = {"tails": PARTS, "state": ("state",), "none": ()}


@st.composite
def any_costs(draw):
    lines = st.builds(Line, SECONDS, st.sampled_from([0.0, 0.01, 0.2]))
    kinds = tuple(draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3)))
    ends = [f"{run}.{name}" for run in ("forward", "backward") for name in ("embed", "head")]
    wires = st.builds(Wire, SECONDS, st.sampled_from([1.0, 100.0, 1e12]))
    return replace(
        simple_costs(),
        kinds=kinds,
        layers={kind: draw(st.dictionaries(st.sampled_from(NAMES), lines)) for kind in kinds},
        ends=draw(st.dictionaries(st.sampled_from(ends), lines)),
        same_host=draw(wires),
        between_hosts=draw(wires),
    )


@settings(max_examples=400, deadline=None)
@given(
    any_costs(),
    st.builds(
        Layout,
        st.sampled_from(["striped", "contiguous"]),
        st.integers(1, 60),
        st.sampled_from([4, 8]),
        st.integers(1, 6),
        st.integers(1, 3),
    ),
    st.sampled_from([0, 0.5, 1, 2.7, 99]),
    st.sampled_from([1, 2, 8]),
    st.integers(0, 30),
)
def test_no_step_is_faster_than_possible(costs, layout, kept, ranks_per_host, growth):
    made = Schedule(layout, tuple(KINDS[kind] for kind in costs.kinds))
    found = simulate(
        made,
        lambda key: 20 + growth * key.boundary,
        costs,
        kept=kept,
        ranks_per_host=ranks_per_host,
        trace=True,
    )
    assert found.chain_seconds <= found.possible_seconds <= found.seconds * (1 + 1e-9)
    assert found.trace is not None
    step = analyse(found.trace).steps[0]
    assert step.chain.seconds <= step.possible_seconds <= step.seconds * (1 + 1e-9) + 1e-12
