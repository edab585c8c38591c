"""An edge whose messages are late is named with what they take there and elsewhere."""

import pytest

from tests.traces import WIRE, make_trace
from tttscale.observe.hand_overs import hand_overs
from tttscale.observe.slow_edges import slow_edges
from tttscale.observe.span_table import span_table


def found(expected=None, error=0.0, **options):
    trace = make_trace(chunks=24, steps=2, **options)
    return slow_edges(trace, hand_overs(span_table(trace)), error, expected)


def test_edges_that_are_alike():
    assert found(ranks=4) == []


def test_a_late_edge_of_a_ring():
    (edge,) = found(ranks=4, delays={(1, 2): 2e-3})
    assert (edge.sender, edge.receiver, edge.compared) == (1, 2, True)
    assert edge.wire_seconds == pytest.approx(WIRE + 2e-3, rel=0.1)
    assert edge.usual_seconds < 10 * WIRE
    assert edge.factor > 5
    assert edge.seconds > 0


def test_a_difference_within_the_error_of_clocks_is_not_seen():
    assert found(ranks=4, delays={(1, 2): 2e-3}, error=5e-3) == []
