"""The scan's benchmark runs, small."""

import json

from tttscale.bench import scan
from tttscale.bench.scan import bench_scan


def test_scan_report(tmp_path, forked, monkeypatch):
    monkeypatch.setattr(scan, "_ROUNDS", 1)
    bench_scan(tmp_path / "scan", tokens=64, repeats=1, official=None)
    text = (tmp_path / "scan.md").read_text()
    assert "| linear | 2 |" in text
    assert "commit" in text
    facts = json.loads((tmp_path / "scan.json").read_text())
    assert facts["circumstances"]["versions"]["torch"]
    assert len(facts["data"]) == 4
