"""The report's values."""

import json

import pytest

from tests.profile.reports import report_of
from tests.traces import make_trace
from tttscale.observe.overlap import analyse
from tttscale.observe.spans import Span
from tttscale.profile.report import (
    facts_line,
    make_report,
    seconds_text,
    share_text,
    size_text,
)


@pytest.fixture(scope="module")
def made():
    trace = make_trace(4, 16, 3, steps=3, hosts=2, slow={2: 1.4})
    return trace, *report_of(trace, ["a note"])


def test_numbers_are_those_of_the_analysis(made):
    trace, report, _ = made
    found = analyse(trace)
    assert [step["seconds"] for step in report["steps"]] == [s.seconds for s in found.steps]
    cards = {card["name"]: card for card in report["headline"]}
    assert cards["step"]["value"] == seconds_text(found.mean("seconds"))
    assert cards["straggler"]["value"] == "rank 2"
    assert cards["straggler"]["tone"] == "attention"
    assert cards["bubble"]["tone"] == "attention"
    for row, times in zip(report["ranks"], found.steps[0].ranks, strict=True):
        assert row["compute_seconds"] == pytest.approx(times.compute_seconds, rel=0.05)
    for step in found.steps:
        table = dict(report["rank_seconds"][str(step.step)])
        assert sum(table[2].values()) == pytest.approx(step.seconds, rel=1e-3)
    assert len(report["edges"]) == 8
    assert report["edges"][0]["bytes"] > 0
    for part in ("hidden", "exposed"):
        total = sum(edge[f"{part}_seconds"] for edge in report["edges"])
        assert total == pytest.approx(sum(layer[f"{part}_seconds"] for layer in report["layers"]))


def test_it_names_the_cause_and_ends_with_what_to_change(made):
    _, report, _ = made
    assert "Rank 2 takes 1.4" in report["verdict"]
    assert "Best change: " in report["verdict"]
    assert any("Rank 2" in cause for cause in report["causes"])
    assert report["advice"][0]["gain"] == max(
        a["gain"] for a in report["advice"] if not a["needs_ranks"]
    )
    assert "Simulated" in report["advice_note"]


def test_it_is_json(made):
    _, report, _ = made
    assert json.loads(json.dumps(report, allow_nan=False))["format"] == 1


def test_prediction_stands_beside_the_measurement(made):
    _, report, step = made
    rows = {row["name"]: row for row in report["comparison"]}
    assert rows["computing, of a rank"]["ratio"] == pytest.approx(1.0, rel=1e-3)
    # A simulated rank is as fast as the mean, so it does not wait for the slow one.
    assert rows["step"]["ratio"] < 1
    assert step.ranks[0].steps[0].end == pytest.approx(rows["step"]["predicted"], rel=0.01)


def test_a_trace_without_steps_is_said_to_be_one():
    trace = make_trace()
    for rank in trace.ranks:
        rank.steps, rank.spans = [], []
    report = make_report(trace, analyse(trace), [])
    assert report["verdict"] == "The trace holds no whole step."
    assert report["headline"] == []
    assert "Nothing was simulated" in report["advice_note"]


def test_what_was_cut_is_said():
    trace = make_trace()
    trace.cut = "steps 2 to 3 left out"
    trace.ranks[1].clock_error_seconds = 4e-6
    report, _ = report_of(trace)
    assert "Of the trace: steps 2 to 3 left out." in report["notes"]
    assert any("agree within 4 us" in note for note in report["notes"])


def test_unsteady_steps_are_said_to_be():
    trace = make_trace(steps=3)
    assert report_of(trace)[0]["cautions"] == []
    for rank in trace.ranks:
        mark = rank.steps[2]
        late = (mark.end - mark.begin) / 2
        rank.steps[2] = mark._replace(end=mark.end + late)
        rank.spans.append(Span(mark.end, mark.end + late, "other"))
    (caution,) = report_of(trace)[0]["cautions"]
    assert "The traced steps differ by 50 %" in caution


def test_words():
    assert facts_line(make_trace(2, 8, 3, replicas=2, hosts=2, sequences=2)) == (
        "4 ranks on 2 hosts, 2 replicas of 2, striped, 8 chunks, 64 tokens each, 2 sequences, 3 layers"
    )
    assert [seconds_text(s) for s in (0, 2.5, 0.0123, 4.5e-5, 3e-9)] == [
        "0",
        "2.5 s",
        "12.3 ms",
        "45 us",
        "3 ns",
    ]
    assert (share_text(0.0123), share_text(0.5)) == ("1.2 %", "50 %")
    assert (size_text(3 << 30), size_text(1500)) == ("3 GiB", "1.46 KiB")
