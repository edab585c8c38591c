"""The four times of a hand-over, and where a step went: traces with known answers, and what always holds."""

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plan.helpers import schedule, simple_costs
from tests.traces import make_trace
from tttscale.observe.hand_overs import hand_overs
from tttscale.observe.overlap import analyse
from tttscale.observe.span_table import medians, span_table
from tttscale.observe.spans import RankTrace, Span, StepMark, Trace
from tttscale.plan.simulate import simulate


def send(begin, end, chunk=0, run="forward", layer=0, part="state", sequence=0):
    return Span(begin, end, "send", run, sequence, chunk, layer, part)


def wait(begin, end, chunk=1, run="forward", layer=0, part="state", sequence=0):
    return Span(begin, end, "wait", run, sequence, chunk, layer, part)


def work(begin, end, activity="advance", chunk=0, run="forward", layer=0):
    return Span(begin, end, activity, run, 0, chunk, layer)


def trace(*tracks, end=10.0, begin=0.0, **facts):
    ranks = [
        RankTrace(rank, steps=[StepMark(1, begin, end)], spans=list(spans))
        for rank, spans in enumerate(tracks)
    ]
    return Trace("measured", ranks, facts)


def times(found, index=0):
    """Upstream, wire, hidden, exposed, the sender's own, and whether the arrival was seen."""
    names = ("upstream", "wire", "hidden", "exposed", "send")
    values = (float(getattr(found, f"{name}_seconds")[index]) for name in names)
    return (*values, bool(found.seen[index]))


def matched(*tracks):
    return hand_overs(span_table(trace(*tracks)))


# ---- one hand-over -----------------------------------------------------------------------------


def test_the_receiver_waits_for_the_sender_and_then_for_the_wire():
    found = matched([work(0, 2), send(2, 2.5)], [wait(1, 4)])
    assert times(found) == (1, 2, 0, 2, 0.5, True)


def test_a_part_of_the_wire_is_hidden_under_compute():
    found = matched([send(1, 1.1)], [work(0, 2, chunk=1), wait(2, 3)])
    assert times(found) == (0, 2, 1, 1, pytest.approx(0.1), True)


def test_an_arrival_that_nobody_saw_took_what_others_took_on_that_edge():
    seen = [(1.0, 0.5), (3.0, 0.3), (5.0, 0.4)]
    sends = [send(t, t + 0.1, layer=i) for i, (t, _) in enumerate(seen)]
    waits = [wait(t - 0.5, t + wire, layer=i) for i, (t, wire) in enumerate(seen)]
    late = matched([*sends, send(6, 6.1, layer=3)], [*waits, wait(9, 9, layer=3)])
    assert times(late, 3) == (
        0,
        pytest.approx(0.4),
        pytest.approx(0.4),
        0,
        pytest.approx(0.1),
        False,
    )
    early = matched([*sends, send(6, 6.1, layer=3)], [*waits, wait(6.2, 6.2, layer=3)])
    assert times(early, 3)[1] == pytest.approx(0.2)  # never more than the gap


def test_an_edge_on_which_nothing_was_seen_is_compared_with_the_others():
    found = matched(
        [send(1, 1, layer=0), send(3, 3, layer=1)],
        [wait(0, 1.25, layer=0), wait(7, 7, layer=1), send(7, 7, chunk=1)],
        [wait(9, 9, chunk=2)],
    )
    assert [times(found, i)[1] for i in range(3)] == [0.25, 0.25, 0.25]
    assert list(found.seen) == [True, False, False]


def test_a_short_wait_after_a_long_gap_is_no_arrival():
    """Taking a message that has long been there costs a moment, too."""
    found = matched([send(1, 1.1)], [work(0, 8, chunk=1), wait(8, 8.001)])
    assert times(found)[5] is False
    assert times(found)[1] == pytest.approx(0.001)


def test_gradients_go_to_the_left():
    found = matched(
        [wait(1, 4, chunk=0, run="backward")], [work(0, 2, chunk=1), send(2, 2, 1, "backward")]
    )
    assert times(found) == (1, 2, 0, 2, 0, True)
    assert (found.sender[0], found.receiver[0], found.boundary[0]) == (1, 0, 0)
    assert found.sums("backward", steps=1)[0].direction == "gradients"


@pytest.mark.parametrize(
    "other",
    [
        send(1, 1, chunk=1),
        send(1, 1, run="backward", chunk=2),
        send(1, 1, layer=1),
        send(1, 1, part="qk_conv"),
        send(1, 1, sequence=1),
    ],
)
def test_only_the_message_itself_is_matched(other):
    found = matched([other], [wait(0, 4)])
    assert (len(found), found.unmatched) == (0, 1)


def test_replicas_and_steps_are_told_apart():
    tracks = [[send(1, 1), send(11, 11)], [wait(0, 2), wait(10, 14)]]
    marks = [StepMark(1, 0, 9), StepMark(2, 10, 19)]
    ranks = [
        RankTrace(rank, replica=rank // 2, steps=marks, spans=tracks[rank % 2]) for rank in range(4)
    ]
    found = hand_overs(span_table(Trace("measured", ranks)))
    pairs = zip(found.sender, found.receiver, found.step, found.wire_seconds, strict=True)
    assert sorted(pairs) == [(0, 1, 0, 1), (0, 1, 1, 3), (2, 3, 0, 1), (2, 3, 1, 3)]


def test_what_is_sent_between_steps_is_no_part_of_them():
    ranks = trace([send(11, 11)], [wait(10.5, 12)])
    assert len(analyse(ranks).hand_overs) == 0


def test_a_clock_that_is_wrong_makes_no_negative_time():
    found = matched([send(5, 5.1)], [wait(1, 4)])
    assert times(found)[:4] == (3, 0, 0, 0)
    assert found.inverted == 1


# ---- a step ------------------------------------------------------------------------------------


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
    hop = step.chain.seconds / 4
    passing = (2 + 2.5) / 2  # forward and backward of one chunk: 3.25, 2.5, 2, 1
    possible = max(work_seconds / 2 + hop, step.chain.seconds + passing - hop)
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


def test_a_contiguous_rank_is_in_its_first_task_for_one_layer_only():
    def waits(layout):
        first = [send(3, 3, layer=0), send(6, 6, layer=1)]
        second = [wait(1, 3, layer=0), work(3, 4, chunk=1), wait(4, 6, layer=1)]
        second.append(work(6, 7, chunk=1, layer=1))
        step = analyse(trace(first, second, begin=1.0, end=7.0, layout=layout)).steps[0]
        return step.ranks[1].ramp_seconds, step.ranks[1].starved_seconds

    assert waits("striped") == (4, 0)
    assert waits("contiguous") == (2, 2)


def test_ranks_that_begin_late_or_end_early_are_idle():
    marks = [[StepMark(1, 0, 10)], [StepMark(1, 1, 8)]]
    spans = [[work(0, 10)], [work(1, 5, chunk=1), work(6, 8, chunk=1)]]
    ranks = [RankTrace(rank, steps=marks[rank], spans=spans[rank]) for rank in range(2)]
    late = analyse(Trace("measured", ranks)).steps[0].ranks[1]
    assert (late.activities["idle"], late.activities["other"]) == (3, 1)
    assert sum(late.activities.values()) == 10


def test_a_trace_without_marks_is_one_step():
    whole = trace([work(2, 3)], [work(2.5, 7, chunk=1)])
    for rank in whole.ranks:
        rank.steps.clear()
    (step,) = analyse(whole).steps
    assert (step.begin, step.seconds) == (2, 5)


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


# ---- the slowest rank --------------------------------------------------------------------------


def test_a_straggler_is_named_with_its_factor():
    found = analyse(make_trace(4, 16, 3, slow={2: 1.5}))
    assert found.straggler.rank == 2
    assert found.straggler.factor == pytest.approx(1.5, rel=0.02)
    assert found.steps[0].straggler.rank == 2
    compute = found.steps[0].ranks[2].compute_seconds
    assert found.straggler.seconds == pytest.approx(compute / 3, rel=0.05)


@pytest.mark.parametrize("chunks", [5, 7, 9])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_more_chunks_or_kept_ones_make_no_straggler(chunks, kept):
    """A rank that has twice the chunks is not slow, nor is one whose only chunk is not recomputed."""
    assert analyse(make_trace(4, chunks, 3, kept=kept)).straggler is None
    assert analyse(make_trace(2, 3, 2, kept=kept)).straggler is None


def test_a_short_last_chunk_makes_no_straggler():
    def rank(seconds, chunk):
        return [work(0, seconds, chunk=chunk)]

    facts = dict(chunks=2, chunk_tokens=64)
    whole = trace(rank(4, 0), rank(2, 1), sequence_tokens=128, **facts)
    assert analyse(whole).straggler.rank == 0
    short = trace(rank(4, 0), rank(2, 1), sequence_tokens=96, **facts)
    assert analyse(short).straggler is None


def test_noise_makes_no_straggler():
    rng = random.Random(5)
    for _ in range(20):
        tracks = []
        for rank in range(3):
            now, spans = 0.0, []
            for chunk in range(rank, 12, 3):
                end = now + rng.lognormvariate(0, 0.2)
                spans.append(work(now, end, chunk=chunk))
                now = end
            tracks.append(spans)
        assert analyse(trace(*tracks, end=60.0)).straggler is None


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


@pytest.mark.parametrize("layout", ["striped", "contiguous"])
def test_every_message_of_a_schedule_is_matched(layout):
    for ranks, chunks, sequences in ((2, 5, 1), (3, 7, 2), (4, 4, 3)):
        trace = make_trace(
            ranks, chunks, 2, sequences=sequences, replicas=2, steps=2, layout=layout
        )
        found = analyse(trace)
        sent = sum(span.activity == "send" for rank in trace.ranks for span in rank.spans)
        assert len(found.hand_overs) == sent
        assert (found.unmatched, found.inverted) == (0, 0)
        # a wire of 30 us, after 4 us of sending that vary a little
        seen = found.hand_overs.wire_seconds[found.hand_overs.seen]
        assert seen.min() > 33e-6
        assert seen.max() < 35e-6


def test_clocks_are_said_to_be_wrong():
    trace = make_trace(3, 6, 2)
    for rank, error in zip(trace.ranks, (0.0, 2e-6, 5e-6), strict=True):
        rank.clock_error_seconds = error
    assert analyse(trace).clock_error_seconds == pytest.approx(7e-6)


def test_lower_medians():
    found = medians(np.array([0, 2, 0, 0, 2]), np.array([3.0, 8, 1, 2, 7]), 3)
    assert (found[0], found[2]) == (2, 7)
    assert np.isnan(found[1])


@pytest.mark.parametrize(("ranks", "chunks", "limit_seconds"), [(8, 32, 1.0), (64, 256, 10.0)])
def test_large_traces_are_quick(ranks, chunks, limit_seconds):
    trace = make_trace(ranks, chunks, 24)
    began = time.process_time()
    analyse(trace)
    assert time.process_time() - began < limit_seconds
