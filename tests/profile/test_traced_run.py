"""Clocks of several ranks become one."""

import pytest
import torch

from tests.train.small import small_config
from tttscale.comm.clock import ClockOffset
from tttscale.observe.spans import RankTrace, Span, StepMark
from tttscale.profile.traced_run import Clock, TracedRun, on_one_clock, with_steps


def test_times_of_another_clock_come_to_the_first_one():
    """A clock that is 100 s ahead and gains a millisecond in ten seconds."""
    before, after = ClockOffset(100.0, 2e-6), ClockOffset(100.001, 5e-6)
    clock = Clock(before, after, asked=50.0, again=60.0)
    assert clock.on_first(150.0) == pytest.approx(50.0)
    assert clock.on_first(160.001) == pytest.approx(60.0, abs=1e-6)
    assert clock.on_first(155.0005) == pytest.approx(55.0, abs=1e-6)


def test_the_trace_begins_at_zero_on_all_ranks():
    first = RankTrace(0, spans=[Span(50.0, 51.0, "wait")], steps=[StepMark(1, 50.0, 51.0)])
    second = RankTrace(
        1,
        spans=[Span(149.5, 151.0, "send")],
        reads=[Span(150.0, 150.5, "read")],
        memory=[(150.5, 7)],
    )
    still, ahead = ClockOffset(0.0, 0.0), ClockOffset(100.0, 3e-6)
    one, two = on_one_clock(
        [first, second], [Clock(still, still, 40.0, 60.0), Clock(ahead, ahead, 40.0, 60.0)]
    )
    assert two.spans == [Span(0.0, 1.5, "send")]
    assert one.spans == [Span(0.5, 1.5, "wait")]
    assert one.steps == [StepMark(1, 0.5, 1.5)]
    assert two.reads[0][:2] == (0.5, 1.0)
    assert two.memory == [(1.0, 7)]
    assert (one.clock_error_seconds, two.clock_error_seconds) == (0.0, 3e-6)


def test_a_short_run_is_made_long_enough():
    config = small_config(steps=2)
    assert with_steps(config, 8).train.steps == 8
    assert with_steps(config, 1).train.steps == 2


class OneRank:
    """As much of a mesh as bounding a trace asks for; the other rank has room for `others` steps."""

    world_size, rank = 150, 0

    def __init__(self, others):
        self._others = others

    def gather(self, values):
        return torch.tensor([values, [float(self._others)]], dtype=torch.float64)


def bounded(others, spans_per_step, steps):
    spans = [Span(float(i), i + 1.0, "project") for i in range(spans_per_step * steps)]
    marks = [
        StepMark(step + 1, float(step * spans_per_step), float((step + 1) * spans_per_step))
        for step in range(steps)
    ]
    run = TracedRun(*[None] * 8)
    run.mesh = OneRank(others)
    return run._bounded(RankTrace(0, spans=spans, steps=marks))


def test_all_ranks_send_the_same_steps():
    """150 ranks may have 20,000 spans each."""
    rank, cut = bounded(others=5, spans_per_step=9_000, steps=3)
    assert [mark.step for mark in rank.steps] == [1, 2]
    assert len(rank.spans) == 18_000
    assert "steps after 2 left out" in cut
    rank, cut = bounded(others=1, spans_per_step=9_000, steps=3)
    assert [mark.step for mark in rank.steps] == [1]
    rank, cut = bounded(others=5, spans_per_step=100, steps=3)
    assert (len(rank.spans), cut) == (300, "")


def test_one_step_that_is_too_long_is_sent_in_joined_spans():
    rank, cut = bounded(others=0, spans_per_step=30_000, steps=2)
    assert [mark.step for mark in rank.steps] == [1]
    assert len(rank.spans) <= 20_000
    assert rank.spans[-1].end == 30_000.0
    assert "left out" in cut
    assert "joined" in cut
