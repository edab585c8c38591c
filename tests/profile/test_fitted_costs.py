"""Costs that are read off a trace give the trace again when they are simulated."""

import pytest

from tests.profile.reports import job_of, setting_of
from tests.traces import BYTES, MICROSECONDS, make_trace
from tttscale.observe.overlap import analyse
from tttscale.plan.costs import Line
from tttscale.profile.fitted_costs import fit, kept_chunks
from tttscale.scan.timeline import Activity, Run

KINDS = ("ttt-linear",) * 3


def fitted(*traces):
    return fit([(trace, analyse(trace)) for trace in traces], KINDS, BYTES)


@pytest.mark.parametrize(
    "shape",
    [
        {"ranks": 1, "chunks": 4},
        {"ranks": 2, "chunks": 8},
        {"ranks": 4, "chunks": 16, "sequences": 2, "kept": 2},
        {"ranks": 2, "chunks": 8, "layout": "contiguous"},
    ],
)
def test_the_simulated_step_is_as_long_as_the_trace(shape):
    trace = make_trace(layers=3, steps=2, **shape)
    found, costs = analyse(trace), fitted(trace)
    simulated = job_of(trace, costs).simulated(setting_of(trace)).seconds
    sweeps = found.mean("seconds") - found.mean("outside_seconds") - found.mean("data_seconds")
    # The trace made by hand exchanges parts at other places of a backward run than the model does.
    assert simulated == pytest.approx(sweeps, rel=0.05)
    busy = found.mean("compute_seconds") * trace.facts["sequence_ranks"]
    assert sum(job_of(trace, costs).simulated(setting_of(trace)).busy_seconds) == pytest.approx(
        busy, rel=1e-3
    )


def test_every_activity_has_its_own_cost():
    trace = make_trace(2, 8, 3)
    costs = fitted(trace)
    for activity in ("project", "advance", "readout", "finish", "head"):
        seconds = costs.seconds(Run.BACKWARD, Activity(activity), 64, 1)
        # The backward of a handed-over part takes one cost for each part in the trace.
        factor = 2.1 * {"project": 1, "embed": 1}.get(activity, 1)
        assert seconds == pytest.approx(MICROSECONDS[activity] * 1e-6 * factor, rel=0.05)
    assert costs.seconds(Run.FORWARD, Activity.SEND, 64, 0) == pytest.approx(4e-6, rel=0.2)
    wire = costs.wire_seconds(BYTES["state"], True)
    assert wire == pytest.approx(30e-6 + 4e-6, rel=0.3)
    assert "measured here, on chunks of 64 tokens" in costs.source


def test_two_chunk_lengths_tell_fixed_costs_apart():
    long, short = make_trace(1, 4, 3), make_trace(1, 8, 3)
    short.facts |= {"chunk_tokens": 32}
    for rank in short.ranks:
        # Three quarters of the time for half of the tokens: half of it is fixed.
        rank.spans = [s._replace(begin=s.begin * 0.75, end=s.end * 0.75) for s in rank.spans]
        rank.steps = [m._replace(begin=m.begin * 0.75, end=m.end * 0.75) for m in rank.steps]
    costs = fitted(long, short)
    whole = costs.seconds(Run.FORWARD, Activity.FINISH, 64, 0)
    assert costs.seconds(Run.FORWARD, Activity.FINISH, 0, 0) == pytest.approx(whole / 2, rel=0.1)
    assert "chunks of 64 and 32 tokens" in costs.source


def test_without_messages_a_wire_is_assumed_and_it_says_so():
    costs = fitted(make_trace(1, 3, 3))
    assert "a wire is assumed" in costs.source
    assert costs.wire_seconds(1 << 20, True) > 0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({100: 5.0}, Line(0.0, 0.05)),
        ({100: 5.0, 200: 8.0}, Line(2.0, 0.03)),
        ({100: 5.0, 200: 5.0}, Line(5.0, 0.0)),
        ({100: 5.0, 200: 12.0}, None),
        ({100: 5.0, 200: 4.0}, None),
    ],
)
def test_lines_have_no_negative_part(seconds, expected):
    found = Line.through(seconds)
    assert found.fixed >= 0
    assert found.per_token >= 0
    if expected is not None:
        assert found.fixed == pytest.approx(expected.fixed)
        assert found.per_token == pytest.approx(expected.per_token)


def test_kept_chunks_are_those_that_were_not_run_again():
    assert kept_chunks(make_trace(2, 8, 2, kept=0)) == {0: 0, 1: 0}
    assert kept_chunks(make_trace(2, 9, 2, kept=3)) == {0: 3, 1: 3}
    assert kept_chunks(make_trace(2, 8, 2, kept=99, replicas=2)) == {0: 4, 1: 4}
