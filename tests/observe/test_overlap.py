"""Where a step went: traces with known answers, the simulator's own figures, and what always holds."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.observe.by_hand import send, trace, wait, work
from tests.plan.helpers import schedule, simple_costs
from tests.traces import make_trace
from tttscale.observe.overlap import analyse
from tttscale.observe.spans import RankTrace, Span, StepMark, Trace
from tttscale.plan.simulate import simulate


def two_ranks():
    """Rank 0 has chunks 0 and 2, rank 1 chunks 1 and 3; one layer."""
    first = [
        *(Span(0, 0.5, "data"), work(0.5, 2, "project"), work(2, 3), send(3, 3.25)),
        *(work(3.25, 4, "readout"), wait(4, 6, 2), work(6, 7, chunk=2), send(7, 7, 2)),
        *(Span(7, 7.5, "flush", "forward"), wait(7.5, 8.5, 2, "backward")),
        *(work(8.5, 9.5, chunk=2, run="backward"), Span(9.5, 10, "idle")),
    ]
    second = [
        *(work(0, 1, "project", 1), wait(1, 3.5), work(3.5, 5, chunk=1), send(5, 5, 1)),
        *(wait(5, 7.25, 3), work(7.25, 8, chunk=3), work(8, 8.25, chunk=3, run="backward")),
        *(send(8.25, 8.25, 3, "backward"), wait(8.25, 9.75, 1, "backward"), Span(9.75, 10, "idle")),
    ]
    first.insert(-1, send(9.5, 9.5, 2, "backward"))
    return trace(first, second)


def test_where_a_step_went():
    found = analyse(two_ranks())
    zero, one = found.steps[0].ranks
    # the wait for chunk 2: until 5 for rank 1, then for the wire; the first wait of its backward is the ramp
    assert zero.compute_seconds == pytest.approx(1.5 + 1 + 0.75 + 1 + 1)
    assert zero.ramp_seconds == pytest.approx(0.75 + 0.5)
    assert zero.starved_seconds == pytest.approx(1)
    assert zero.exposed_seconds == pytest.approx(1 + 0.25 + 0.25 + 0.5)
    assert (zero.data_seconds, zero.rest_seconds) == (pytest.approx(0.5), pytest.approx(0))
    assert one.ramp_seconds == pytest.approx(2 + 0.25)
    assert one.starved_seconds == pytest.approx(2 + 1.25)
    assert one.exposed_seconds == pytest.approx(0.5 + 0.25 + 0.25)
    step = found.steps[0]
    assert step.ramp_seconds == pytest.approx((1.25 + 2.25) / 2)
    assert step.bubble_fraction == pytest.approx((1.25 + 2.25 + 1 + 3.25) / 20)


def test_what_was_possible():
    step = analyse(two_ranks()).steps[0]
    advances = 1 + 1.5 + 1 + 0.75 + 1 + 0.25
    assert step.chain.advance_seconds == pytest.approx(advances)
    assert step.chain.crossings == 5
    # 0 -> 1 has 0.5 and 0.25 for states and 0.25 for gradients, 1 -> 0 has 1 and 0.25
    assert step.chain.seconds == pytest.approx(advances + 5 * 0.25)
    work_seconds = 5.25 + 1 + 1.5 + 0.75 + 0.25
    assert step.work_seconds == pytest.approx(work_seconds)
    project = 1.5  # of chunk 0, which the chain needs; chunk 3 has no readout
    ramp = 1 + 0.25 + (1.5 - 1)  # chunk 0's advance, an ordinary wire, and its longer project
    possible = max((work_seconds + ramp) / 2, step.chain.seconds + project)
    assert step.possible_seconds == pytest.approx(possible)
    assert step.possible_step_seconds <= step.seconds


@pytest.mark.parametrize("layout", ["striped", "contiguous"])
def test_possible_does_not_depend_on_what_is_in_the_way(layout):
    """Ranks with more chunks than others, an edge that is late: both could be mended."""
    even = analyse(make_trace(4, 16, 4, layout=layout)).steps[0]
    assert even.possible_step_seconds <= even.seconds
    late = analyse(make_trace(4, 16, 4, layout=layout, delays={(1, 2): 9e-3})).steps[0]
    assert late.seconds > 1.05 * even.seconds
    assert late.possible_seconds == pytest.approx(even.possible_seconds, rel=0.01)
    uneven = analyse(make_trace(4, 17, 4, layout=layout)).steps[0]
    assert uneven.possible_seconds == pytest.approx(even.possible_seconds * 17 / 16, rel=0.03)


def test_the_first_chunk_is_the_ramp_in_all_layers_and_layouts():
    def waits(layout):
        first = [send(3, 3, layer=0), send(6, 6, layer=1)]
        second = [wait(1, 3, layer=0), work(3, 4, chunk=1), wait(4, 6, layer=1)]
        second.append(work(6, 7, chunk=1, layer=1))
        step = analyse(trace(first, second, begin=1.0, end=7.0, layout=layout)).steps[0]
        return step.ranks[1].ramp_seconds, step.ranks[1].starved_seconds

    assert waits("striped") == (4, 0)
    assert waits("contiguous") == (4, 0)


def test_ranks_that_begin_late_or_end_early_are_idle():
    marks = [[StepMark(1, 0, 10)], [StepMark(1, 1, 8)]]
    spans = [[work(0, 10)], [work(1, 5, chunk=1), work(6, 8, chunk=1)]]
    ranks = [RankTrace(rank, steps=marks[rank], spans=spans[rank]) for rank in range(2)]
    late = analyse(Trace("measured", ranks)).steps[0].ranks[1]
    assert (late.activities["idle"], late.activities["other"]) == (3, 1)
    assert sum(late.activities.values()) == 10


def test_a_span_over_the_end_of_a_step_is_cut():
    found = analyse(trace([Span(-1, 2, "idle"), work(2, 9), Span(9, 12, "record")], end=10.0))
    assert found.steps[0].ranks[0].activities == {"idle": 2, "advance": 7, "record": 1, "other": 0}


def test_between_steps():
    marks = [StepMark(1, 0, 4), StepMark(2, 6, 10)]
    spans = [work(0, 4), Span(4, 5.5, "record"), Span(5.5, 6, "idle"), work(6, 10)]
    spans.append(Span(10, 11, "checkpoint"))
    rank = RankTrace(0, steps=marks, spans=spans)
    found = analyse(Trace("measured", [rank]))
    assert found.between_seconds == [{"record": 0.75, "idle": 0.25, "checkpoint": 0.5}]


def test_an_empty_trace():
    found = analyse(Trace("measured", [RankTrace(0), RankTrace(1)]))
    assert len(found.hand_overs) == 0
    assert found.total == []
    assert found.straggler is None


@pytest.mark.parametrize("wire", [(0.3, 1e12), (0.0, 1e3)])
@pytest.mark.parametrize(
    ("chunks", "ranks", "sequences", "kept"),
    [(16, 4, 1, 1), (5, 4, 1, 0), (3, 4, 2, 1), (12, 3, 2, 2)],
)
def test_the_simulator_says_the_same_of_its_own_trace(chunks, ranks, sequences, kept, wire):
    """Two ways to the same times: on the simulator's clocks, and from the spans alone."""
    said = simulate(
        schedule("striped", chunks, ranks, sequences, layers=3),
        lambda key: 100,
        simple_costs(3, wire=wire, embed=0.2, head=0.4),
        kept=kept,
        trace=True,
    )
    step = analyse(said.trace).steps[0]
    assert step.seconds == pytest.approx(said.seconds)
    for ours, theirs in (
        ("compute", said.busy_seconds),
        ("ramp", said.ramp_seconds),
        ("starved", said.starved_seconds),
        ("exposed", said.exposed_seconds),
    ):
        found = [getattr(rank, f"{ours}_seconds") for rank in step.ranks]
        assert found == pytest.approx(theirs, abs=1e-6), ours
    assert step.chain.seconds == pytest.approx(said.chain_seconds)
    assert step.possible_seconds == pytest.approx(said.possible_seconds, rel=0.01)


# ---- what always holds -------------------------------------------------------------------------

ACTIVITIES = ("wait", "send", "project", "advance", "idle", "data", "flush", "reduce", "record")


@st.composite
def any_trace(draw):
    """Ranks that do anything, on clocks that are wrong."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    ranks = []
    for number in range(draw(st.integers(1, 4))):
        now, spans = rng.uniform(-0.5, 0.5), []
        for _ in range(draw(st.integers(0, 25))):
            now += rng.choice([0, 0, rng.random()])
            end = now + rng.choice([0.0, 1e-6, rng.random()])
            place = rng.randrange(2), rng.randrange(4), rng.randrange(2)
            run, part = rng.choice(["forward", "backward"]), rng.choice(["qk_conv", "state"])
            spans.append(Span(now, end, rng.choice(ACTIVITIES), run, *place, part))
            now = end
        cut = rng.uniform(0, now) if now > 0 else 0.0
        steps = [StepMark(1, -1.0, cut), StepMark(2, cut, now + 1)]
        ranks.append(RankTrace(number, number % 2, steps=steps, spans=spans))
    return Trace("measured", ranks)


@settings(max_examples=150, deadline=None)
@given(any_trace())
def test_times_add_up_and_none_is_negative(trace):
    found = analyse(trace)
    for step in found.steps:
        for rank in step.ranks:
            assert sum(rank.activities.values()) == pytest.approx(step.seconds, abs=1e-9)
            times = [value for name, value in vars(rank).items() if name.endswith("_seconds")]
            assert sum(times) == pytest.approx(step.seconds, abs=1e-9)
            assert min(times) >= 0
            assert min(rank.activities.values()) >= -1e-9
        assert 0 <= step.possible_step_seconds <= step.seconds
    over = found.hand_overs
    for name in ("upstream", "wire", "hidden", "exposed", "send"):
        assert (getattr(over, f"{name}_seconds") >= 0).all(), name
    waits = over.wait_end - over.wait_begin
    assert np.allclose(over.upstream_seconds + over.exposed_seconds, waits, atol=1e-12)
    assert np.allclose(over.hidden_seconds + over.exposed_seconds, over.wire_seconds, atol=1e-12)
    for sums in (found.edges, found.layers, found.cells, found.total):
        total = sum(one.exposed_seconds for one in sums)
        assert total == pytest.approx(float(over.exposed_seconds.sum()) / 2, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(any_trace(), st.sampled_from([-1024.0, 0.25, 4096.0]))
def test_the_begin_of_the_clock_does_not_matter(trace, shift):
    moved = Trace("measured", [moved_rank(rank, shift) for rank in trace.ranks])
    here, there = analyse(trace), analyse(moved)
    for one, other in zip(here.steps, there.steps, strict=True):
        assert other.begin - one.begin == pytest.approx(shift)
        for a, b in zip(one.ranks, other.ranks, strict=True):
            assert b.ramp_seconds == pytest.approx(a.ramp_seconds, abs=1e-9)
            assert b.starved_seconds == pytest.approx(a.starved_seconds, abs=1e-9)
    assert len(here.hand_overs) == len(there.hand_overs)


def moved_rank(rank, shift):
    spans = [span._replace(begin=span.begin + shift, end=span.end + shift) for span in rank.spans]
    steps = [StepMark(step, begin + shift, end + shift) for step, begin, end in rank.steps]
    return RankTrace(rank.rank, rank.replica, steps=steps, spans=spans)


def test_clocks_are_said_to_be_wrong():
    trace = make_trace(3, 6, 2)
    for rank, error in zip(trace.ranks, (0.0, 2e-6, 5e-6), strict=True):
        rank.clock_error_seconds = error
    assert analyse(trace).clock_error_seconds == pytest.approx(7e-6)


def test_many_ranks():
    found = analyse(make_trace(64, 128, 8))
    assert len(found.hand_overs) == 127 * 8 * 2 * 2  # boundaries, layers, parts, directions
    assert len(found.edges) == 128
    assert len(found.cells) == 128 * 8
    assert sum(edge.count for edge in found.edges) == len(found.hand_overs)
