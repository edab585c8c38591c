"""The step's benchmark runs, small."""

import json

from tttscale.bench.step import bench_step


def test_step_report(tmp_path, forked):
    bench_step(tmp_path / "step", [512], [1, 2], chunk=64, keep="1", steps=1)
    data = json.loads((tmp_path / "step.json").read_text())["data"]
    assert [(d["tokens"], d["ranks"]) for d in data] == [(512, 1), (512, 2)]
    assert data[0]["loss"] == data[1]["loss"]
    assert data[0]["carry_bytes"] > 0
