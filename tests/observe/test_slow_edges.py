"""Which edges are slower than the others: by every message, not by those that happened to be late."""

import numpy as np
import pytest

from tests.traces import make_trace
from tttscale.observe.causes import diagnose
from tttscale.observe.hand_overs import hand_overs
from tttscale.observe.overlap import analyse
from tttscale.observe.slow_edges import slow_edges, typical_seconds
from tttscale.observe.span_table import span_table


def slow(trace, error=0.0, expected=None):
    return slow_edges(trace, hand_overs(span_table(trace)), error, expected)


def test_the_edge_is_named_with_what_it_takes_and_costs():
    (edge,) = slow(make_trace(4, 32, 8, steps=2, delays={(2, 3): 10e-3}))
    assert (edge.sender, edge.receiver) == (2, 3)
    assert edge.wire_seconds == pytest.approx(10e-3, rel=0.01)
    assert edge.usual_seconds == pytest.approx(34e-6, rel=0.05)
    assert edge.factor == pytest.approx(edge.wire_seconds / edge.usual_seconds)
    assert edge.seconds > 20e-3


def test_a_clock_that_is_worse_than_the_difference_says_nothing():
    trace = make_trace(4, 32, 8, delays={(2, 3): 10e-3})
    assert slow(trace, error=9e-3)
    assert not slow(trace, error=11e-3)


def test_a_few_late_messages_are_no_cause():
    """A receiver that gets its processor late sees only some messages late."""
    trace, rng = make_trace(2, 32, 4), np.random.default_rng(5)
    step_seconds = analyse(trace).mean("seconds")
    for rank in trace.ranks:
        for row, span in enumerate(rank.spans):
            if span.activity == "wait" and rng.random() < 0.2:
                following = rank.spans[row + 1]
                late = span.end + 0.5 * (following.end - following.begin)
                rank.spans[row] = span._replace(end=late)
                rank.spans[row + 1] = following._replace(begin=late)
    assert sum(edge.seconds for edge in slow(trace)) < 0.03 * step_seconds
    assert "slow edge" not in {cause.kind for cause in diagnose(trace)}


def test_all_edges_alike():
    assert not slow(make_trace(3, 24, 4))
    edges = [(a, b) for a in range(3) for b in range(3)]
    assert not slow(make_trace(3, 24, 4, delays=dict.fromkeys(edges, 5e-3)))


def test_an_edge_alone_is_slow_if_that_was_not_expected():
    trace = make_trace(2, 2, 8, steps=2, delays={(0, 1): 5e-3})
    for rank in trace.ranks:  # only states, so only one edge
        rank.spans = [
            s for s in rank.spans if s.run != "backward" or s.activity not in ("wait", "send")
        ]
    assert not slow(trace)
    (edge,) = slow(trace, expected=lambda a, b, part: 30e-6)
    assert not edge.compared
    assert not slow(trace, expected=lambda a, b, part: 4e-3)


def test_what_messages_usually_cost_leaves_hiccups_out():
    found = hand_overs(span_table(make_trace(3, 24, 4)))
    usual = typical_seconds(found, 3)
    found.exposed_seconds[0] += 10.0
    assert typical_seconds(found, 3) == pytest.approx(usual, rel=0.05)
    assert typical_seconds(found.take(np.zeros(len(found), bool)), 3) == 0
