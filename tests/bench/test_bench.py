"""The benchmarks run, small, and their reports say under which circumstances."""

import json

from tttscale.bench import gpu_check
from tttscale.bench.scan import bench_scan
from tttscale.bench.step import bench_step


def test_scan_report(tmp_path):
    bench_scan(tmp_path / "scan", tokens=64, repeats=1, official=None)
    text = (tmp_path / "scan.md").read_text()
    assert "| linear | 2 |" in text
    assert "commit" in text
    facts = json.loads((tmp_path / "scan.json").read_text())
    assert facts["circumstances"]["versions"]["torch"]
    assert len(facts["data"]) == 4


def test_step_report(tmp_path):
    bench_step(tmp_path / "step", [512], [1, 2], chunk=64, keep="1", steps=1)
    data = json.loads((tmp_path / "step.json").read_text())["data"]
    assert [(d["tokens"], d["ranks"]) for d in data] == [(512, 1), (512, 2)]
    assert data[0]["loss"] == data[1]["loss"]
    assert data[0]["carry_bytes"] > 0


def test_gpu_check_without_a_gpu(tmp_path):
    assert gpu_check.main(tmp_path / "gpu") == 0
    assert "Against fp64" in (tmp_path / "gpu.md").read_text()
