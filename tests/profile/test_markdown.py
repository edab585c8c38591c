"""The report in words."""

import re

import pytest

from tests.profile.reports import report_of
from tests.traces import make_trace
from tttscale.profile.markdown import report_markdown


@pytest.fixture(scope="module")
def report():
    return report_of(make_trace(3, 12, 2, steps=2, slow={1: 1.3}), ["a note"])[0]


def rows(text, head):
    """Cells of the table that begins with this head."""
    found = []
    for line in text.partition(f"\n| {head} |")[2].splitlines()[2:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def test_it_has_all_tables_and_ends_with_what_to_change(report):
    text = report_markdown({**report, "cautions": ["mind it"]}, ["report.html", "trace.json.gz"])
    assert "**mind it**" in text
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == [
        "Steps",
        "Where each rank's time went",
        "Hand-overs by edge",
        "Hand-overs by layer",
        "Predicted beside measured",
        "How it was measured",
        "What to change",
    ]
    end = text.rpartition("## What to change")[2]
    assert all(advice["text"] in end for advice in report["advice"])
    assert all(advice["key"].replace("_", r"\_") in end for advice in report["advice"])
    assert "`report.html`, `trace.json.gz`" in text
    assert "- a note" in text


def test_numbers_are_those_of_the_report(report):
    text = report_markdown(report)
    steps = rows(
        text,
        "step | seconds | computing | ramp | starvation | exposed | tokens | rest | serial chain | possible",
    )
    assert [row[0] for row in steps] == ["1", "2"]
    ranks = rows(
        text, "rank | host | computing | ramp | starvation | exposed | tokens | rest | memory"
    )
    assert [row[0] for row in ranks] == ["0", "1", "2"]
    edges = rows(
        text, "edge | carries | messages | waited for upstream | on the wire | hidden | exposed"
    )
    assert len(edges) == len(report["edges"])


def test_long_tables_are_cut_and_say_so(report):
    many = {**report, "ranks": report["ranks"] * 40, "edges": report["edges"] * 40}
    text = report_markdown(many)
    assert "56 more are in report.json." in text


def test_names_are_shown_as_they_are(report):
    evil = "<b>|x|\n# `rm`"
    host = [{**rank, "host": evil} for rank in report["ranks"]]
    text = report_markdown({**report, "run": evil, "notes": [evil], "ranks": host})
    assert "<b>" not in text
    assert "\n# `" not in text
    ranks = rows(
        text, "rank | host | computing | ramp | starvation | exposed | tokens | rest | memory"
    )
    assert {len(row) for row in ranks} == {9}


def test_without_hand_overs_and_predictions(report):
    text = report_markdown({**report, "edges": [], "comparison": [], "advice": []})
    assert "Hand-overs" not in text
    assert "Predicted" not in text
