"""The benchmarks run, small, and their reports say under which circumstances."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from tttscale.bench import gpu_tune, report
from tttscale.bench.build import bench_build
from tttscale.bench.documents import bench_documents
from tttscale.bench.gpu_tune_worker import candidates
from tttscale.bench.scan import bench_scan
from tttscale.bench.step import bench_step
from tttscale.data.builder.train_tokenizer import train_tokenizer
from tttscale.kernels.triton_scan.launch_table import launch_of

ROOT = Path(__file__).parents[2]


def test_a_dot_in_a_reports_name_is_no_suffix(tmp_path):
    for name in ("ttt-1.3b", "ttt-1.5b"):
        report.write(tmp_path / name, name, [], data=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"ttt-1.{size}b.{suffix}" for size in (3, 5) for suffix in ("json", "md")
    ]
    assert json.loads((tmp_path / "ttt-1.3b.json").read_text())["data"] == "ttt-1.3b"


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


def test_documents_report(tmp_path):
    bench_documents(tmp_path / "documents", tokens=1024)
    data = json.loads((tmp_path / "documents.json").read_text())["data"]
    assert [(d["inner"], d["heads"]) for d in data[::4]] == [
        (k, h) for k in ("linear", "mlp") for h in (2, 12)
    ]
    assert data[0]["documents"] == 1
    assert data[3]["documents"] > 1
    assert all(d["together_ms"] > 0 for d in data)


def test_build_report(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("print('hello, world')\n" * 200)
    (tmp_path / "c.py").write_bytes(b"\xff")
    train_tokenizer(tmp_path / "t.json", [str(tmp_path)], vocab_size=300, suffixes=[".py"])
    bench_build(
        tmp_path / "build", [str(tmp_path)], str(tmp_path / "t.json"), [".py"], 1, [1, 2], 1
    )
    data = json.loads((tmp_path / "build.json").read_text())["data"]
    assert [row["what"] for row in data][-2:] == ["build, 1 worker(s)", "build, 2 worker(s)"]
    assert all(row["bytes"] == 8800 for row in data)


def test_gpu_check_without_a_gpu(tmp_path):
    env = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "SECONDS_LIMIT": "1200"}
    subprocess.run(["bash", ROOT / "launch" / "gpu_check.sh"], env=env, check=True)
    text = (tmp_path / "gpu_check.md").read_text()
    assert "Against fp64" in text
    data = json.loads((tmp_path / "gpu_check.json").read_text())["data"]
    around = data["around"]
    assert {row["operator"] for row in around} == {
        *("norm", "add_norm", "swiglu", "gated_norm", "queries_and_keys", "cross_entropy")
    }
    assert all(row["error"] < 1e-5 for row in around)
    assert "| linear | 1 | 64 |" in text
    assert len(data["errors"]) == 4
    assert all(row["same_bits"] and not row["host_waits"] for row in data["errors"])
    assert not data["missing"]


def test_gpu_tune_without_a_gpu(tmp_path):
    """One kernel under the table's launch and under another; the results agree."""
    assert gpu_tune.main(tmp_path / "tune.2") == 0
    rows = json.loads((tmp_path / "tune.2.json").read_text())["data"]
    assert [row["now"] for row in rows] == [True, False]
    assert all(row["right"] and row["us_per_step"] > 0 for row in rows)


def test_every_launch_tried_is_another_one():
    for kind, kernel in itertools.product(("linear", "mlp"), gpu_tune.KERNELS):
        now = launch_of(90, kind, kernel, 64, 16, torch.bfloat16)
        tried = candidates(kind, kernel, now)
        assert tried[0] == now
        assert len(set(tried)) == len(tried) >= 6
