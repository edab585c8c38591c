"""What the GPU round says of memory accesses, and how it ends."""

import json
import shutil
import subprocess

import pytest

from tttscale.bench import gpu_check
from tttscale.bench.gpu_check import Round, check_memory_accesses

ROW = {"inner": "linear", "dim": 16, "K": 16, "dtype": "bf16", "tokens": 75, "error": 1e-4}
ROW |= {"of": "out", "limit": 1e-2, "same_bits": True, "host_waits": False, "ok": True}
DONE = subprocess.CompletedProcess("", 0, stdout=json.dumps([ROW]))
WRONG = subprocess.CalledProcessError(9, "", stderr="Invalid __global__ write")
LATE = subprocess.TimeoutExpired("", 1)


@pytest.fixture
def sanitizer(tmp_path, monkeypatch):
    """Put a compute-sanitizer on the PATH that ends as it is told."""

    def install(*lines):
        tool = tmp_path / "compute-sanitizer"
        tool.write_text("\n".join(["#!/bin/sh", *lines]))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert shutil.which("compute-sanitizer") == str(tool)

    return install


def test_illegal_accesses_fail(sanitizer):
    sanitizer("echo Invalid __global__ write >&2", "exit 9")
    work = Round("cuda", 100)
    assert check_memory_accesses(work) == "FAILED, see below"
    assert len(work.missing) == 2
    assert all("ended with 9: Invalid __global__ write" in line for line in work.missing)


@pytest.mark.parametrize(
    ("linear", "mlp", "said"),
    [
        (LATE, LATE, "not finished, see below"),
        (DONE, LATE, "not finished, see below"),
        (WRONG, LATE, "FAILED, see below"),
        (LATE, WRONG, "FAILED, see below"),
    ],
)
def test_too_little_time_is_no_illegal_access(linear, mlp, said, sanitizer, monkeypatch):
    sanitizer("exit 1")

    def run(command, **_):
        end = linear if "linear" in command else mlp
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(subprocess, "run", run)
    assert check_memory_accesses(Round("cuda", 100)) == said


def test_no_time_left_is_no_illegal_access(sanitizer):
    sanitizer("exit 9")
    work = Round("cuda", 0)
    assert check_memory_accesses(work) == "not finished, see below"
    assert all(line.endswith("no time left") for line in work.missing)


def test_no_error_found(sanitizer):
    sanitizer(f"echo '{json.dumps([ROW])}'")
    assert check_memory_accesses(Round("cuda", 100)) == "no error found"


@pytest.mark.parametrize(
    ("said", "exit_code"),
    [("no error found", 0), ("not finished, see below", 0), ("FAILED, see below", 1)],
)
def test_the_exit_code_knows_of_illegal_accesses(said, exit_code, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "check_errors", lambda work: [ROW])
    monkeypatch.setattr(gpu_check, "check_memory_accesses", lambda work: said)
    monkeypatch.setattr(Round, "worker", lambda *_, **__: [])
    assert gpu_check.main(tmp_path / "round.2", 100) == exit_code
    assert said in (tmp_path / "round.2.md").read_text()
