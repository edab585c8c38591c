"""A rehearsal has the same report as a real run."""

import json

from tests.warm import tttscale


def test_many_ranks_on_this_machine(folder):
    out = folder / "rehearsal"
    done = tttscale(
        "rehearse", folder / "run.yaml", "parallel.chunk_length=16", "--ranks", "8", "--report", out
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
        "trace.json.gz",
    ]
    report = json.loads((out / "report.json").read_text())
    assert report["origin"] == "rehearsed"
    assert len(report["ranks"]) == 8
    assert len(report["edges"]) == 16
    rows = {row["name"]: row for row in report["comparison"]}
    assert 0.9 < rows["both sweeps"]["ratio"] < 1.1
    assert "Costs assumed for" in report["notes"][0]
    assert report["advice"]


def test_a_folder_that_cannot_be(folder):
    (folder / "file").write_text("x")
    done = tttscale("rehearse", folder / "run.yaml", "--ranks", "2", "--report", folder / "file")
    assert done.returncode == 64
    assert "--report" in done.stderr
