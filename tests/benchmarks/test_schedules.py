"""Schedules in the simulator: beside the published grid, and variations that have to agree with it."""

from pathlib import Path

import pytest

from benchmarks.schedules import explored
from benchmarks.schedules.explored import Setting, explore
from benchmarks.schedules.published import (
    CASES,
    OTHER_ORDER,
    PUBLISHED,
    RANKS,
    efficiency,
    published_costs,
)
from benchmarks.schedules.rehearsals import GRID, TARGETS, rehearsals
from benchmarks.schedules.report import render
from benchmarks.schedules.two_streams import TwoStreams
from tttscale.bench import report
from tttscale.plan.program import Programs
from tttscale.plan.simulate import simulate
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Schedule

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("ranks", [4, 16, 64])
@pytest.mark.parametrize("learner", PUBLISHED)
def test_an_independent_simulator_agrees(learner, ranks):
    for name, cells in PUBLISHED[learner].items():
        cited = OTHER_ORDER.get((learner, name, ranks), cells[RANKS.index(ranks)])
        ours = efficiency(learner, CASES[name], ranks)
        assert abs(ours - cited) < 2, (name, ours)


def small(learner="linear", **options):
    setting = Setting(learner, 8, 65536, published_costs(learner))
    return (
        setting if not options else Setting(learner, 8, 65536, published_costs(learner), **options)
    )


def test_one_stream_takes_as_long_as_in_the_simulator():
    """List scheduling with one engine a rank, against the ranks' fixed order: nearly the same."""
    costs = published_costs("linear")
    schedule = Schedule(Layout("striped", 2**20, 32768, 8), (("state",),) * 24)
    now = simulate(schedule, lambda key: 532480, costs, kept=1).seconds
    one, two = (
        TwoStreams(schedule, 532480, costs, kept=1, slowed=1.0, streams=n).seconds() for n in (1, 2)
    )
    assert one == pytest.approx(now, rel=0.01)
    assert two < 0.9 * one


def test_variations_that_change_nothing(monkeypatch):
    setting = small()
    now = setting.now().seconds
    assert explored._grouped(setting, explored._Sends) == pytest.approx(now, rel=1e-3)
    monkeypatch.setattr(explored, "_WEIGHT_SHARE", 0.0)
    assert explored._put_off(setting, 1) == pytest.approx(now)


def test_groups_share_a_scan_only_if_it_is_bound_by_work():
    setting = small()
    assert explored._grouped(setting, explored._Groups) < setting.now().seconds
    programs = explored._Groups((("pre_conv", "qk_conv", "state"),), setting.costs, labels=True)
    programs.offsets = [0, 6]
    made = programs.get(explored.Run.FORWARD, range(1), 64, True, True, False)
    slots = [step.slot for step in made.steps if step.slot >= 0]
    assert slots == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    whole = Programs((("pre_conv", "qk_conv", "state"),), setting.costs, labels=True)
    before = whole.get(explored.Run.FORWARD, range(1), 64, True, True, False)
    assert sum(s.seconds for s in made.steps) == pytest.approx(sum(s.seconds for s in before.steps))


def test_what_is_explored():
    gains = dict(explore(small()))
    assert gains["activations of all chunks kept (is built)"] < 0
    rotated = gains["2 sequences a step, rotated starts (is built)"]
    assert rotated <= gains["2 sequences a step, all from rank 0"] < 0
    assert gains["advance on a second stream, free"] < -0.1
    assert "gradients summed under the last backward wave" not in gains  # these costs have none


def test_rehearsals_are_what_the_simulator_says():
    case = TARGETS[0]._replace(layers=1, chunk_tokens=65536)
    (found,) = rehearsals([case])
    assert found["seconds"] == pytest.approx(found["simulated_seconds"])
    assert {c.layout for c in GRID} == {"striped", "contiguous"}


def test_the_page_is_what_its_raw_data_gives():
    page = (BENCHMARKS / "schedules.md").read_text()
    data = report.read(BENCHMARKS / "schedules")[1]
    for _, text in render(data):
        assert text in page
    for row in data["targets"]:
        least = {8: 0.95, 16: 0.90, 64: 0.70}[row["ranks"]]
        assert row["one_rank_seconds"] / row["ranks"] / row["seconds"] >= least
        assert row["seconds"] / row["simulated_seconds"] == pytest.approx(1, abs=0.01)
    for row in data["grid"]:
        assert row["seconds"] / row["simulated_seconds"] == pytest.approx(1, abs=0.01)
