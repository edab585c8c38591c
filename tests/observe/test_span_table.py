"""Spans as arrays, cut into steps."""

import numpy as np
import pytest

from tests.observe.by_hand import trace, work
from tests.traces import make_trace
from tttscale.observe.overlap import analyse
from tttscale.observe.span_table import BETWEEN, RUNS, key_of, medians, span_table, typical_sum
from tttscale.observe.spans import RankTrace, Span, StepMark, Trace


def test_the_table_has_what_the_spans_have():
    made = make_trace(3, 6, 2, steps=2, layout="contiguous")
    table = span_table(made)
    spans = [span for rank in made.ranks for span in rank.spans]
    assert len(table.begin) == len(spans)
    for row, span in enumerate(spans):
        assert table.activities[table.activity[row]] == span.activity
        assert RUNS[table.run[row]] == span.run
        assert table.parts[table.part[row]] == span.part
        place = table.sequence[row], table.chunk[row], table.layer[row]
        assert place == (span.sequence, span.chunk, span.layer)
        if span.activity in ("wait", "send"):
            assert table.boundary[row] == span.boundary


def test_spans_between_steps_belong_to_none():
    marks = [StepMark(3, 0, 1), StepMark(4, 2, 3)]
    spans = [work(0, 1), Span(1, 2, "record"), work(2, 3)]
    table = span_table(Trace("measured", [RankTrace(0, steps=marks, spans=spans)]))
    assert list(table.step) == [0, BETWEEN, 1]
    assert [bounds.step for bounds in table.steps] == [3, 4]


def test_spans_of_a_rank_never_overlap():
    """Events of two streams may."""
    table = span_table(trace([work(0, 3), work(2, 5), work(2.5, 4)]))
    assert list(table.begin) == [0, 3, 5]
    assert list(table.end) == [3, 5, 5]


def test_a_trace_without_marks_is_one_step():
    whole = trace([work(2, 3)], [work(2.5, 7, chunk=1)])
    for rank in whole.ranks:
        rank.steps.clear()
    (step,) = analyse(whole).steps
    assert (step.begin, step.seconds) == (2, 5)


def test_lower_medians():
    found = medians(np.array([0, 2, 0, 0, 2]), np.array([3.0, 8, 1, 2, 7]), 3)
    assert (found[0], found[2]) == (2, 7)
    assert np.isnan(found[1])


def test_keys_are_equal_where_all_columns_are():
    rng = np.random.default_rng(1)
    columns = rng.integers(-2, 3, (3, 200))
    keys = key_of(*columns)
    same = (columns[:, :, None] == columns[:, None, :]).all(0)
    assert ((keys[:, None] == keys[None, :]) == same).all()


def test_typical_sums():
    assert typical_sum(np.array([4, 9, 4, 7]), np.array([1.0, 5.0, 2.0, 9.0])) == pytest.approx(5)
    assert typical_sum(np.zeros(0, int), np.zeros(0)) == 0
