"""A trace that is kept small still says the truth about the time that it shows."""

import pytest

from tests.traces import make_trace
from tttscale.observe.spans import Span
from tttscale.observe.trace_bounds import MIXED, bounded, joined, peaks


def spans_of(trace):
    return sum(len(rank.spans) for rank in trace.ranks)


def seconds_by_activity(rank):
    sums = {}
    for span in rank.spans:
        sums[span.activity] = sums.get(span.activity, 0.0) + span.end - span.begin
    return sums


def test_a_small_trace_stays_as_it_is():
    trace = make_trace(steps=2)
    same = bounded(trace, 10_000, 10_000)
    assert same == trace
    assert same.cut == ""


def test_later_steps_go_first():
    trace = make_trace(steps=3)
    small = bounded(trace, spans_of(trace) // 2, 10_000)
    assert [mark.step for mark in small.ranks[0].steps] == [1]
    assert "steps 2 to 3 left out" in small.cut
    for rank, whole in zip(small.ranks, trace.ranks, strict=True):
        assert rank.spans == whole.spans[: len(rank.spans)]
        assert rank.spans[-1].end <= rank.steps[-1].end + 1e-12


@pytest.mark.parametrize("most", [40, 100, 250])
def test_short_spans_are_joined(most):
    trace = make_trace(ranks=2, chunks=8, layers=4)
    small = bounded(trace, most, 10_000)
    assert spans_of(small) <= most
    assert "joined" in small.cut
    for rank, whole in zip(small.ranks, trace.ranks, strict=True):
        assert (rank.spans[0].begin, rank.spans[-1].end) == (
            whole.spans[0].begin,
            whole.spans[-1].end,
        )
        assert all(
            a.end <= b.begin + 1e-12 for a, b in zip(rank.spans, rank.spans[1:], strict=False)
        )


def test_joining_keeps_long_spans_and_names_what_took_most():
    spans = [
        Span(0, 1, "project", "forward", 0, 3, 1),
        Span(1, 4, "advance", "forward", 0, 3, 1),
        Span(4, 104, "finish", "forward", 0, 3, 1),
        Span(104, 106, "wait", "forward", 0, 4, 0, "state"),
        Span(106, 107, "send", "forward", 0, 4, 1, "state"),
        Span(107, 109, "readout", "forward", 0, 4, 1),
    ]
    found = joined(spans, 5, across=False)
    assert found[0] == Span(0, 4, "advance", "forward", 0, 3, 1)
    assert found[1] == spans[2]
    assert found[2] == Span(104, 109, MIXED, "forward", 0, 4)
    assert joined(spans[3:], 5, across=False) != joined([spans[0], *spans[3:]], 200, across=True)


def test_peaks_are_kept():
    samples = [(float(i), (i * 7919) % 1000) for i in range(1000)]
    few = peaks(samples, 50)
    assert len(few) <= 50
    assert max(size for _, size in few) == max(size for _, size in samples)
    assert few == sorted(few)
    assert peaks(samples[:10], 50) == samples[:10]
