"""Deadlines of a round: what was printed before one stays, what runs behind it does not."""

import os
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from benchmarks.gpu import round as gpu_round
from benchmarks.gpu.round import Ending, Round, Stage, run_lines, run_stages
from tttscale.bench import report


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """In place of a worker's Python: a shell script."""

    def install(*lines):
        path = tmp_path / "python"
        path.write_text("\n".join(["#!/bin/sh", *lines]))
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return install


@pytest.fixture
def deadline(tmp_path, monkeypatch):
    """The deadline comes when this file does, so that no test depends on how fast the machine is."""
    path = tmp_path / "now"

    class WhenItIsThere:
        def __init__(self, seconds, stop):
            self.stop, self.cancelled = stop, Event()

        def start(self):
            Thread(target=self._watch, daemon=True).start()

        def cancel(self):
            self.cancelled.set()

        def _watch(self):
            while not self.cancelled.wait(0.01):
                if path.exists():
                    return self.stop()

    monkeypatch.setattr(gpu_round, "Timer", WhenItIsThere)
    return path


def is_alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_rows_before_the_deadline_are_kept(worker, deadline, tmp_path):
    child = tmp_path / "child"
    worker(
        f"sleep 1000 & echo $! >{child}",
        """echo '{"tokens": 32768}'""",
        """echo '{"tokens": 131072}'""",
        f"touch {deadline}",
        "sleep 1000",
        """echo '{"tokens": 1048576}'""",
    )
    work = Round("cuda", 1000)
    assert work.worker("gpu.step", "ttt-linear-1.3b") == [{"tokens": 32768}, {"tokens": 131072}]
    (said,) = work.missing
    assert said.startswith("gpu.step ttt-linear-1.3b: stopped at the deadline")
    assert "its 2 rows until then are kept" in said
    assert (work.late, work.failed) == (1, 0)
    pid, end = int(child.read_text()), time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)  # a signal takes its time on a busy machine
    assert not is_alive(pid)  # it would still hold the GPU


def test_a_worker_that_comes_to_its_end_is_not_late(worker):
    worker("""echo '{"tokens": 1}'""", "echo not a row", "echo '[1]'")
    work = Round("cuda", 1000)
    assert work.worker("gpu.step") == [{"tokens": 1}]
    assert (work.missing, work.late, work.failed) == ([], 0, 0)


def test_the_last_words_of_a_worker_name_no_place_of_this_machine():
    said = 'Warning\n  File "/opt/some/lib/site-packages/triton/jit.py", line 1, in run\nValueError: x\n'
    assert (
        Ending(1, said).tail == 'Warning /   File "triton/jit.py", line 1, in run / ValueError: x'
    )


def test_a_process_is_killed_when_its_time_has_come(tmp_path):
    there = tmp_path / "there"
    lines = []
    ended = run_lines(
        ["sh", "-c", f"echo one; touch {there}; sleep 1000"],
        dict(os.environ),
        1000,
        lines.append,
        there.exists,
    )
    assert (ended.asked, ended.late, ended.code) == (True, False, -9)
    assert lines == ["one\n"]


def test_what_a_stage_leaves_over_goes_to_the_next():
    left = {}

    def stage(name):
        return Stage(name, 10, lambda work: left.update({name: work.left_seconds}))

    run_stages(Round("cuda", 300), [stage("a"), stage("b"), stage("c")], lambda *_: None)
    assert left["a"] <= 100 < left["b"] <= 200 < left["c"] <= 300
    run_stages(Round("cpu", 300), [stage("a"), stage("b")], lambda *_: None)
    assert left["a"] > 150


def test_a_stage_that_breaks_does_not_end_the_round():
    done = []
    work = Round("cpu", 300)

    def broken(part):
        raise RuntimeError("no driver")

    run_stages(
        work,
        [Stage("a", 1, broken), Stage("b", 1, lambda part: None)],
        lambda name, _: done.append(name),
    )
    assert done == ["a", "b"]
    assert work.missing == ["a: RuntimeError('no driver')"]


def test_the_report_names_the_commit_of_a_copy_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "__file__", str(tmp_path / "tttscale" / "bench" / "report.py"))
    monkeypatch.delenv("COMMIT", raising=False)
    assert report.circumstances()["commit"] == "unknown"
    (tmp_path / "COMMIT").write_text("9038e45\n")
    assert report.circumstances()["commit"] == "9038e45"
    monkeypatch.setenv("COMMIT", "1234567")
    assert report.circumstances()["commit"] == "1234567"
