"""What the simulator says of a run's neighbours."""

from dataclasses import replace

import pytest

from tests.profile.reports import job_of, setting_of
from tests.traces import BYTES, make_trace
from tttscale.observe.overlap import analyse
from tttscale.plan.costs import Line
from tttscale.profile.advice import Advice, advise, whole_step
from tttscale.profile.fitted_costs import fit


def advised(**shape):
    trace = make_trace(**shape)
    costs = fit([(trace, analyse(trace))], ("ttt-linear",) * trace.facts["layers"], BYTES)
    job, now = job_of(trace, costs), setting_of(trace)
    return trace, job, now, advise(job, now)


def test_too_long_chunks_are_to_be_cut():
    _, job, now, found = advised(ranks=8, chunks=8, layers=4)
    best = found[0]
    assert best.helps
    assert best.change.startswith("chunk_length 64 -> ")
    assert best.key == f"parallel.chunk_length={best.change.split()[-1]}"
    assert best.seconds < job.step_seconds(now)
    assert best.text == f"about {best.gain * 100:.0f} % less"


def test_every_neighbour_is_tried_and_ranks_come_last():
    _, _, now, found = advised(ranks=4, chunks=32, layers=2, kept=1)
    keys = {advice.key.split("=")[0] for advice in found}
    assert keys >= {
        "parallel.chunk_length",
        "parallel.layout",
        "parallel.keep_chunks",
        "parallel.sequence",
    }
    needs = [advice.needs_ranks for advice in found]
    assert needs == sorted(needs)
    gains = [advice.gain for advice in found if not advice.needs_ranks]
    assert gains == sorted(gains, reverse=True)
    contiguous = next(a for a in found if a.key == "parallel.layout=contiguous")
    assert not contiguous.helps
    assert contiguous.text.endswith("more")
    every = next(a for a in found if a.key == "parallel.keep_chunks=8")
    assert every.helps
    assert every.note == "no recomputation; 109 MiB of memory in place of 102 MiB, predicted"
    assert every.peak_bytes == 109 << 20
    twice = next(a for a in found if a.key == "parallel.sequence=8")
    assert "of twice the ranks" in twice.note
    assert now.ranks == 4


def test_what_does_not_fit_is_said_and_is_no_advice():
    trace = make_trace(4, 32, 2)
    costs = fit([(trace, analyse(trace))], ("ttt-linear",) * 2, BYTES)
    job = job_of(trace, costs, capacity_bytes=108 << 20)
    found = advise(job, setting_of(trace))
    every = next(a for a in found if a.key == "parallel.keep_chunks=8")
    assert not every.fits
    assert not every.helps
    assert every.gain > 0
    assert "more than the 108 MiB that are there" in every.note
    assert all(a.fits for a in found[: found.index(every)])


def test_a_prediction_is_what_such_a_run_takes():
    trace, job, _, found = advised(ranks=2, chunks=16, layers=3)
    advice = next(a for a in found if a.key == "parallel.layout=contiguous")
    real = analyse(make_trace(2, 16, 3, layout="contiguous"))
    assert advice.seconds == pytest.approx(real.mean("seconds"), rel=0.03)
    assert trace.facts["layout"] == "striped"
    assert job.alignment == 16


def test_chunks_stay_aligned_and_inside_a_sequence():
    _, _, _, found = advised(ranks=1, chunks=2, layers=1)
    lengths = [a.key.split("=")[1] for a in found if "chunk_length" in a.key]
    assert sorted(map(int, lengths)) == [16, 32, 128]


def test_chunks_to_keep_are_counted_at_the_length_they_then_have():
    trace = make_trace(2, 16, 2, kept=1)
    costs = fit([(trace, analyse(trace))], ("ttt-linear",) * 2, BYTES)
    slow = {f"{run}.project": Line(1e-3, 0.0) for run in ("forward", "recompute", "backward")}
    costs = replace(costs, layers={"ttt-linear": {**costs.layers["ttt-linear"], **slow}})
    job, now = job_of(trace, costs), setting_of(trace)
    both = next(a for a in advise(job, now) if " " in a.key)
    length, keep = (int(pair.split("=")[1]) for pair in both.key.split())
    assert length > 64
    assert keep == 16 * 64 // length // 2
    assert f"keep_chunks {keep}" in both.change


@pytest.mark.parametrize(
    ("gain", "text"),
    [(0.004, "about the same"), (0.094, "about 9 % less"), (-1.5, "about 150 % more")],
)
def test_words(gain, text):
    assert Advice("", "", 1.0, gain).text == text


def test_the_predicted_step_ends_with_what_follows_the_sweeps():
    trace, job, now, _ = advised(ranks=2, chunks=8, layers=2, steps=2)
    step = whole_step(job.simulated(now, trace=True), trace, {"note": 1})
    assert step.origin == "simulated"
    assert step.facts["note"] == 1
    for rank in step.ranks:
        assert [span.activity for span in rank.spans[-3:]] == ["reduce", "optimizer", "gather"]
        assert rank.steps[0].end == pytest.approx(rank.spans[-1].end)
        assert rank.host == "node0"
    assert analyse(step).mean("rest_seconds") == pytest.approx(2e-4, rel=0.1)
