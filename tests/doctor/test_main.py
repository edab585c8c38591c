"""The command `doctor`: alone, with something missing, and as a job of two ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tttscale import cli
from tttscale.cluster import discover
from tttscale.config import load_config
from tttscale.doctor import main

ROOT = Path(__file__).parents[2]
RUN = """\
run: {name: quick}
model: {preset: ttt-linear-125m}
data: {store: stores/text, sequence_length: 64Ki}
parallel: {sequence: 2}
train: {steps: 10, device: cpu}
"""
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = ("--seconds", "200")
"""Tests share a machine with others."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run_doctor(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", *PATIENCE, *words])
    printed = capsys.readouterr()
    return caught.value.code, printed.out, printed.err


def test_alone(capsys, monkeypatch):
    """Every line has a level, what is not ok has a remedy, and the exit code says what there is."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, out, err = run_doctor(capsys)
    lines = out.splitlines()
    findings, remedies = lines[:-2], [line for line in lines if line.strip().startswith("->")]
    levels = [line.split()[0] for line in findings if line not in remedies]
    assert set(levels) <= {"ok", "warning", "problem"}
    assert len(remedies) == len([level for level in levels if level != "ok"])
    assert code == int("problem" in levels)
    for named in ("python", "tttscale", "torch", "deepspeed", "zarr", "MPI", "wandb: offline"):
        assert any(named in line for line in findings), named
    for named in ("GPU", "scan:", "runs:", "cache:", "/dev/shm", "core(s)", "open files"):
        assert any(named in line for line in findings), named
    assert "Traceback" not in out + err


def test_what_is_missing_is_named_without_a_traceback_or_a_secret(tmp_path):
    """A package that is not there and one that is broken; the environment holds a key."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton/__init__.py").write_text("raise OSError('libcuda.so.1: no such file')")
    script = "import sys; sys.modules['zarr'] = None; sys.modules['mpi4py'] = None\n"
    script += "from tttscale.cli import main; main(sys.argv[1:])"
    key = "0123456789abcdef-a-key"
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor", "--json", *PATIENCE],
        env=os.environ
        | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "WANDB_MODE": "online", "WANDB_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    problems = {f["what"]: f["remedy"] for f in found["findings"] if f["level"] == "problem"}
    assert problems["zarr is not installed: token stores need it"] == "pip install zarr"
    assert any("triton" in what and "libcuda.so.1" in what for what in problems)
    assert found["problems"] == len(problems)
    assert any(f["what"].startswith("wandb: online") for f in found["findings"])
    assert key not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_tensorboard_is_looked_for_where_it_is_asked_for():
    ranks = discover({})
    names = [name for name, _ in main._checks(None, ranks)]
    assert "tensorboard" not in names
    config = load_config(ROOT / "configs/quickstart.yaml", ["logging.tensorboard=true"])
    assert "tensorboard" in [name for name, _ in main._checks(config, ranks)]


def test_without_torch():
    script = "import sys; sys.modules['torch'] = None\n"
    script += "from tttscale.cli import main; main(['doctor'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "problem  torch is not installed: everything computes with it" in done.stdout
    assert "/dev/shm" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_two_ranks_under_torchrun(tmp_path):
    (tmp_path / "c.yaml").write_text(RUN)
    done = subprocess.run(
        ["bash", ROOT / "launch/torchrun.sh", "c.yaml", "--json", *PATIENCE],
        cwd=tmp_path,
        env=os.environ
        | {"VERB": "doctor", "N": "2", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["problems"] else 0)
    assert "Traceback" not in done.stderr
    places = found["ranks"]
    assert [(p["rank"], p["local_rank"], p["device"]) for p in places] == [
        (0, 0, "cpu"),
        (1, 1, "cpu"),
    ]
    assert {p["interface"] for p in places} == {"lo"}
    links = found["links"]
    assert [(link["source"], link["target"]) for link in links] == [(0, 1), (1, 0)]
    assert {link["transport"] for link in links} == {"gloo"}
    heads, dim = 12, 64  # the state of a layer: W1 and b1 in fp32
    assert {link["bytes"] for link in links} == {heads * (dim + 1) * dim * 4}
    assert all(0 < link["latency_seconds"] < 10 for link in links)
    assert all(link["bytes_per_second"] > 0 for link in links)
    offsets = found["clock_offsets_seconds"]
    assert (len(offsets), offsets[0]) == (2, 0)
    assert abs(offsets[1]) < 5  # one clock, and a busy machine
    said = [f["what"] for f in found["findings"]]
    assert "2 rank(s) on 1 host(s), by RANK and WORLD_SIZE (torchrun, deepspeed)" in said
    assert any(what.startswith("all ranks have the same tttscale, commit, torch") for what in said)
    assert len([what for what in said if what.startswith("python ")]) == 1  # once a host


MPI_RANK = """
import os, sys
from tttscale.cluster import discover
from tttscale.config import load_config
from tttscale.doctor import main
main._checks = lambda *_: []
config = load_config("c.yaml", ["parallel.transport=mpi"])
sys.exit(main.examine(config, discover(os.environ), lambda report: print(report.json()), 200))
"""


@pytest.mark.skipif(
    not (Path(sys.executable).parent / "mpirun").exists(), reason="the extra `dev` brings mpirun"
)
def test_a_job_of_mpirun_is_measured_over_both_transports(tmp_path):
    (tmp_path / "c.yaml").write_text(RUN)
    mpirun = [Path(sys.executable).parent / "mpirun", "--allow-run-as-root", "--oversubscribe"]
    done = subprocess.run(
        [*mpirun, "-n", "2", sys.executable, "-c", MPI_RANK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    links = json.loads(done.stdout)["links"]
    measured = [(link["source"], link["transport"]) for link in links]
    assert measured == [(0, "gloo"), (0, "mpi"), (1, "gloo"), (1, "mpi")]
    assert all(link["bytes_per_second"] > 0 for link in links)


def test_why_carries_cannot_travel_over_mpi(monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)
    from tttscale.cluster.ranks import Ranks
    from tttscale.doctor.main import _why_not_mpi

    class Alone:
        world_size = 1

        def gather_texts(self, text):
            return [text]

    rank = Ranks(0, 1, 0, 1, "127.0.0.1", 29500, "environment")
    device = torch.device("cpu")
    assert "nothing has started this process" in (_why_not_mpi("mpi", rank, device, Alone()) or "")
    assert _why_not_mpi("auto", rank, device, Alone()) == "no mpirun has started this job"


def test_variables_that_contradict_each_other_are_a_problem(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("tttscale.doctor.main._checks", lambda *_: [])
    code, out, _ = run_doctor(capsys)
    assert code == 1
    assert "problem  RANK=0 is set but WORLD_SIZE is not" in out


def test_ranks_that_do_not_meet_are_a_problem(capsys, monkeypatch):
    names = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "70000"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tttscale.doctor.main._checks", lambda *_: [])
    code, out, _ = run_doctor(capsys)
    assert code == 1
    assert "problem  MASTER_PORT=70000 is not a TCP port" in out


def test_a_wrong_configuration_is_the_one_of_train(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text(RUN)
    code, out, err = run_doctor(capsys, "c.yaml", "train.lrr=1")
    assert (code, out) == (64, "")
    assert "train.lrr is not a known key" in err


def test_what_hangs_ends_within_its_time():
    script = """
import time
from tttscale.cluster import discover
from tttscale.doctor import main
main._checks = lambda *_: [("a dead disk", lambda: time.sleep(60))]
main.examine(None, discover({}), lambda report: print(report.text()), 0.5)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1
    assert "problem  after 0.5 s the doctor was still at: a dead disk" in done.stdout
