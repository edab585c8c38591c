"""What the GPU round says of memory accesses, what it keeps of workers that end badly, and how it ends."""

import json
import shutil
import sys

import pytest

from benchmarks.gpu import check as gpu_check
from benchmarks.gpu import round as gpu_round
from benchmarks.gpu.check import check_memory_accesses
from benchmarks.gpu.round import Ending, Round

ROW = {"inner": "linear", "dim": 16, "K": 16, "dtype": "bf16", "tokens": 75, "error": 1e-4}
ROW |= {"of": "out", "limit": 1e-2, "same_bits": True, "host_waits": False, "ok": True}
DONE = Ending(0)
WRONG = Ending(9, "Invalid __global__ write")
LATE = Ending(-9, late=True)
STEP = {"what": "step", "preset": "ttt-linear-1.3b", "parameters": 1, "tokens": 32768}
STEP |= {"chunk": 8192, "step_seconds": 1.25, "tokens_per_second": 26214.4, "peak_bytes": 0}


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
        (DONE, DONE, "no error found"),
        (LATE, LATE, "not finished, see below"),
        (DONE, LATE, "not finished, see below"),
        (WRONG, LATE, "FAILED, see below"),
        (LATE, WRONG, "FAILED, see below"),
    ],
)
def test_too_little_time_is_no_illegal_access(linear, mlp, said, sanitizer, monkeypatch):
    sanitizer("exit 1")
    monkeypatch.setattr(
        gpu_round, "run_lines", lambda command, *_: linear if "linear" in command else mlp
    )
    assert check_memory_accesses(Round("cuda", 100)) == said


def test_no_time_left_is_no_illegal_access(sanitizer):
    sanitizer("exit 9")
    work = Round("cuda", 0)
    assert check_memory_accesses(work) == "not finished, see below"
    assert all(line.endswith("no time left") for line in work.missing)


def test_no_error_found(sanitizer):
    sanitizer(f"echo '{json.dumps(ROW)}'")
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


@pytest.mark.parametrize("ok", [True, False])
def test_the_exit_code_knows_of_ranks_that_differ(ok, tmp_path, monkeypatch):
    row = {"inner": "mlp", "dtype": "bf16", "layout": "striped", "same_losses": ok, "ok": ok}
    row |= {"different_states": [], "different_state_gradients": ["the state's gradient"]}
    row |= {"same_gradients": False, "gradient_distance": 1e-7}
    monkeypatch.setattr(gpu_check, "check_errors", lambda work: [ROW])
    monkeypatch.setattr(gpu_check, "check_ranks", lambda work: [row])
    monkeypatch.setattr(Round, "worker", lambda *_, **__: [])
    assert gpu_check.main(tmp_path / "round", 100) == int(not ok)
    assert "1.0e-07 apart" in (tmp_path / "round.md").read_text()


def test_a_stage_that_breaks_says_so_and_the_rest_follow(tmp_path, monkeypatch):
    def broken(work):
        raise ValueError("no such clock")

    monkeypatch.setattr(gpu_check, "check_errors", lambda work: [ROW])
    monkeypatch.setattr(gpu_check, "measure_ceilings", broken)
    monkeypatch.setattr(gpu_check, "check_ranks", broken)
    monkeypatch.setattr(Round, "worker", lambda *_, **__: [])
    assert gpu_check.main(tmp_path / "round", 100) == 0
    text = (tmp_path / "round.md").read_text()
    assert "ceilings: ValueError('no such clock')" in text
    assert "checks, and compiling what is timed: ValueError" in text
    assert "| linear | 16 | bfloat16 |" in text.replace("bf16", "bfloat16")  # the check beside it
    assert "| pointwise |" in text


def test_rows_of_a_worker_that_is_killed_are_in_the_report(tmp_path, monkeypatch):
    """The third step of a model, say, takes the machine down: the first two are what was paid for."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$2 $3" in "benchmarks.gpu.step ttt-linear-1.3b")\n'
        f"  echo a warning of a library\n  echo '{json.dumps(STEP)}'\n  kill -9 $$ ;;\n"
        "esac\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(gpu_check, "check_errors", lambda work: [ROW])
    assert gpu_check.main(tmp_path / "round", 100) == 0
    text = (tmp_path / "round.md").read_text()
    assert "| 32,768 | 8,192 | 1.25 | 26,214 |" in text
    assert "ended with -9" in text
    assert "its 1 rows until then are kept" in text
    assert json.loads((tmp_path / "round.json").read_text())["data"]["steps"] == [STEP]
    (line,) = (tmp_path / "round.jsonl").read_text().splitlines()
    assert json.loads(line) == {"worker": "gpu.step ttt-linear-1.3b cpu 64 64 256", **STEP}
