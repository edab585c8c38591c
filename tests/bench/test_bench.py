"""The benchmarks run, small, and their reports say under which circumstances."""

import json

import pytest

from tests import warm
from tttscale.bench import report, scan
from tttscale.bench.build import bench_build
from tttscale.bench.scan import bench_scan
from tttscale.bench.step import bench_step
from tttscale.data.builder.train_tokenizer import train_tokenizer


def test_a_dot_in_a_reports_name_is_no_suffix(tmp_path):
    for name in ("ttt-1.3b", "ttt-1.5b"):
        report.write(tmp_path / name, name, [], data=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"ttt-1.{size}b.{suffix}" for size in (3, 5) for suffix in ("json", "md")
    ]
    assert json.loads((tmp_path / "ttt-1.3b.json").read_text())["data"] == "ttt-1.3b"


@pytest.fixture
def forked(monkeypatch):
    """Workers have everything imported already."""
    monkeypatch.setattr(report, "start_worker", warm.start_worker)


def test_scan_report(tmp_path, forked, monkeypatch):
    monkeypatch.setattr(scan, "_ROUNDS", 1)
    bench_scan(tmp_path / "scan", tokens=64, repeats=1, official=None)
    text = (tmp_path / "scan.md").read_text()
    assert "| linear | 2 |" in text
    assert "commit" in text
    facts = json.loads((tmp_path / "scan.json").read_text())
    assert facts["circumstances"]["versions"]["torch"]
    assert len(facts["data"]) == 4


def test_step_report(tmp_path, forked):
    bench_step(tmp_path / "step", [512], [1, 2], chunk=64, keep="1", steps=1)
    data = json.loads((tmp_path / "step.json").read_text())["data"]
    assert [(d["tokens"], d["ranks"]) for d in data] == [(512, 1), (512, 2)]
    assert data[0]["loss"] == data[1]["loss"]
    assert data[0]["carry_bytes"] > 0


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
