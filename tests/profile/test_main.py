"""The command: what it writes, and that it leaves everything else as it was."""

import gzip
import json
import os
import signal
import sys
import time
from contextlib import suppress

import pytest

from tests.observe.test_perfetto import check
from tests.warm import Command, Fresh, tttscale

FILES = ["report.html", "report.json", "report.md", "trace.json.gz"]


def profile(folder, *words, ranks=1):
    return tttscale("profile", folder / "run.yaml", *words, ranks=ranks)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_ranks(folder):
    done = profile(folder, "run.name=two", "parallel.sequence=2", "--steps", "2", ranks=2)
    assert done.returncode == 0, done.stderr
    out = folder / "runs/two/profile"
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert [p.name for p in (folder / "runs/two").iterdir()] == ["profile"]
    report = json.loads((out / "report.json").read_text())
    assert report["origin"] == "measured"
    assert [step["step"] for step in report["steps"]] == [3, 4]
    assert [rank["rank"] for rank in report["ranks"]] == [0, 1]
    assert {(e["source"], e["target"], e["direction"]) for e in report["edges"]} == {
        (a, b, direction) for a, b in ((0, 1), (1, 0)) for direction in ("forward", "backward")
    }
    assert 0.3 < report["comparison"][2]["ratio"] < 1.5
    assert {a["key"].split("=")[0] for a in report["advice"]} >= {"parallel.chunk_length"}
    assert report["verdict"] in done.stdout
    assert str(out / "report.html") in done.stdout
    events = json.loads(gzip.decompress((out / "trace.json.gz").read_bytes()))["traceEvents"]
    tracks, flows = check(events)
    assert {tid for _, tid in tracks if tid % 2} == {1, 3}
    # Steps, boundaries, layers, parts (state, qk_conv, pre_conv), directions.
    assert len(flows) == 2 * 3 * 2 * 3 * 2
    assert report["ranks"][0]["peak_bytes"] > 1 << 20
    # The first training finds no run in the folder.
    overrides = ("run.name=two", "train.steps=1", "evaluate.sequences=0")
    trained = tttscale("train", folder / "run.yaml", *overrides)
    assert trained.returncode == 0, trained.stderr


def test_two_replicas(folder):
    done = profile(
        folder, "run.name=replicas", "train.sequences_per_step=2", "--steps", "1", ranks=2
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "runs/replicas/profile/report.json").read_text())
    assert "2 replicas of 1" in report["facts_line"]
    assert [rank["replica"] for rank in report["ranks"]] == [0, 1]
    assert report["edges"] == []


def test_a_run_that_is_there_stays_as_it_was(folder):
    overrides = ("run.name=there", "train.steps=2", "checkpoint.every=1")
    assert tttscale("train", folder / "run.yaml", *overrides).returncode == 0
    before = files(folder / "runs/there")
    out = folder / "elsewhere"
    done = profile(
        folder, *overrides, "--out", out, "--steps", "1", "--torch-profiler", "--max-events", "1000"
    )
    assert done.returncode == 0, done.stderr
    assert files(folder / "runs/there") == before
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "torch"])
    raw = json.loads(gzip.decompress((out / "torch/rank-0.json.gz").read_bytes()))
    assert raw["distributedInfo"]["rank"] == 0
    assert raw["distributedInfo"]["world_size"] == 1
    assert [p.name for p in (out / "torch").iterdir()] == ["rank-0.json.gz"]
    again = profile(folder, *overrides, "--out", out, "--steps", "1")
    assert again.returncode == 0, again.stderr
    assert not list(out.rglob("*partial*"))


def test_ctrl_c_leaves_nothing(folder):
    command = Command(["profile", str(folder / "run.yaml"), "run.name=stopped", "--steps", "1000"])
    try:
        deadline = time.monotonic() + 120
        while "tracing" not in command.said()[1]:
            assert time.monotonic() < deadline, command.said()
            assert command.poll() is None, command.said()
            time.sleep(0.05)
        os.kill(command.pid, signal.SIGINT)
        done = command.wait(60)
    finally:
        command.kill()
    assert done.returncode == 130
    assert not (folder / "runs/stopped").exists()


def test_a_rank_ends_with_its_launcher(folder, tmp_path):
    launcher = tmp_path / "torchrun"  # only its name counts
    launcher.write_text("import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])")
    words = "-m", "tttscale", "profile", folder / "run.yaml", "run.name=orphan", "--steps", "1000"
    command = Fresh([sys.executable, launcher, *words])
    try:
        deadline = time.monotonic() + 240
        while "tracing" not in command.said()[1]:
            assert time.monotonic() < deadline, command.said()
            assert command.poll() is None, command.said()
            time.sleep(0.1)
        os.kill(command.pid, signal.SIGKILL)
        while "error: rank 0 ends: its launcher is gone (torchrun" not in command.said()[1]:
            assert time.monotonic() < deadline, command.said()
            time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):  # the rank is in the launcher's group
            os.killpg(command.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--out", "FILE"), "is not a folder"),
        (("--steps", "0"), "--steps"),
        (("trian.steps=3",), "train"),
        (("parallel.sequence=3",), "parallel.sequence"),
    ],
)
def test_mistakes(folder, words, found):
    (folder / "file").write_text("x")
    words = [str(folder / "file") if word == "FILE" else word for word in words]
    done = profile(folder, "run.name=wrong", *words)
    assert done.returncode in (2, 64, 69)
    assert found in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "runs/wrong").exists()
