"""A run notes its starts, and ends a crash loop that a launcher keeps up; never a start by hand."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.warm import Command, Fresh, tttscale
from tttscale.cluster.ranks import Ranks
from tttscale.config import load_config
from tttscale.observe import read_metrics
from tttscale.supervise.attempts import is_alive, read_attempts
from tttscale.train.attempt import RunAttempt

FAILS = """
from tttscale.errors import DataError
from tttscale.train.trainer import Trainer
plain = Trainer.step
def step(self, number, windows):
    if number == {step}:
        raise {error}
    return plain(self, number, windows)
Trainer.step = step
"""
KILLED = "run.name=killed"
BROKEN = FAILS.format(step=3, error="DataError('shard 7 is\\ndamaged')")


def start(folder, name, *words, restart=0, before="", ranks=1):
    environ = {"SLURM_RESTART_COUNT": str(restart)} if restart else {}
    words = (f"run.name={name}", "evaluate.sequences=0", *words)
    return tttscale(
        *("train", folder / "run.yaml", *words), environ=environ, before=before, ranks=ranks
    )


def test_a_crash_loop_ends_until_somebody_starts_it_by_hand(folder):
    words = ("loop", "checkpoint.every=2")
    run = folder / "runs" / "loop"
    assert start(folder, *words, before=BROKEN).returncode == 65  # made a checkpoint, so progress
    for restart in (1, 2, 3):
        assert start(folder, *words, restart=restart, before=BROKEN).returncode == 65
    lines_before = (run / "attempts.jsonl").read_text()
    refused = start(folder, *words, restart=4)
    assert refused.returncode == 77
    said = [line for line in refused.stderr.splitlines() if line.startswith("  attempt ")]
    assert len(said) == 3
    assert all("from step 2, ended" in line for line in said)
    assert all("after step 2 with 65 (data): " in line for line in said)
    assert all("shard 7 is damaged" in line for line in said)
    assert "(the newest checkpoint is still that of step 2)" in refused.stderr
    assert "(SLURM_RESTART_COUNT=4) is not begun: checkpoint.max_attempts = 3" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (run / "attempts.jsonl").read_text() == lines_before
    assert len(read_metrics(run / "metrics.jsonl")) == 2  # nothing is changed

    more = start(folder, *words, "checkpoint.max_attempts=4", restart=4)
    assert (more.returncode, more.stderr.count("error")) == (0, 0)
    ends = [attempt.end.code for attempt in read_attempts(run)]
    assert ends == [65, 65, 65, 65, 0]
    assert [a.start.step for a in read_attempts(run)] == [0, 2, 2, 2, 2]
    assert [a.start.restart for a in read_attempts(run)] == [0, 1, 2, 3, 4]


def test_a_start_by_hand_is_told_and_begun(folder):
    words = ("by-hand", "checkpoint.every=3", "checkpoint.max_attempts=1")
    assert start(folder, *words, before=BROKEN).returncode == 65
    assert start(folder, *words, restart=1).returncode == 77
    by_hand = start(folder, *words)
    assert by_hand.returncode == 0
    assert "the last start failed without progress (no checkpoint yet)" in by_hand.stdout
    assert "this start by hand is begun all the same" in by_hand.stdout


def test_all_ranks_of_a_crash_loop_end_with_its_code(folder):
    words = ("loop-of-2", "checkpoint.every=4", "checkpoint.max_attempts=1", "parallel.sequence=2")
    assert start(folder, *words, before=BROKEN, ranks=2).returncode == 65
    (first,) = read_attempts(folder / "runs" / "loop-of-2")
    assert (first.start.ranks, first.start.hosts, first.end.code) == (2, 1, 65)
    environ, codes = {"TORCHELASTIC_RESTART_COUNT": "1"}, []

    class Codes(Command):
        def wait(self, timeout_seconds=240):
            done = super().wait(timeout_seconds)
            codes.append(done.returncode)
            return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.warm.Command", Codes)
        tttscale(
            *("train", folder / "run.yaml", f"run.name={words[0]}", *words[1:]),
            *("evaluate.sequences=0",),
            environ=environ,
            ranks=2,
        )
    assert codes == [77, 77]


def test_saving_is_no_failure_and_a_kill_leaves_no_end(folder):
    words = ["train.steps=100000", "checkpoint.every=100000", "checkpoint.max_attempts=1"]
    run = folder / "runs" / "signalled"
    expected = []
    for number, code in ((signal.SIGUSR1, 75), (signal.SIGTERM, 75), (signal.SIGKILL, None)):
        before = steps_of(run)
        command = Command(
            ["train", folder / "run.yaml", "run.name=signalled", "evaluate.sequences=0", *words],
            {"SLURM_RESTART_COUNT": str(len(expected))},
        )
        deadline = time.monotonic() + 120
        while steps_of(run) < before + 3:
            assert command.poll() is None, command.said()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert is_alive(read_attempts(run)[-1].start)
        (os.killpg if code is None else os.kill)(command.pid, number)
        found = command.wait(60).returncode
        if code is not None:
            assert found == code, command.said()
        expected.append(code)
    found = read_attempts(run)
    assert [attempt.end and attempt.end.code for attempt in found] == expected
    assert [attempt.end.step for attempt in found[:2]] == [a.start.step for a in found[1:]]
    assert is_alive(found[-1].start) is False
    assert found[-1].failed


def steps_of(run):
    path = run / "metrics.jsonl"
    return len(read_metrics(path)) if path.exists() else 0


def test_torchrun_starts_a_killed_rank_again_to_the_same_bits(folder):
    words = ["train.steps=40", "checkpoint.every=5", "parallel.sequence=2", "evaluate.sequences=0"]
    words = [folder / "run.yaml", "parallel.chunk_length=16", *words]
    assert tttscale("train", *words, "run.name=whole", ranks=2).returncode == 0
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    started = Fresh(
        [sys.executable, *launcher, "--max-restarts=2", "-m", "tttscale", "train", *words, KILLED]
    )
    run, deadline = folder / "runs" / "killed", time.monotonic() + 120
    try:
        while not (run / "checkpoints" / "step-10").exists():
            assert started.poll() is None, started.said()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(rank_of(KILLED, 1), signal.SIGKILL)
        done = started.wait()
    finally:
        started.kill()
    assert done.returncode == 0, done.stderr
    losses = [
        [row["loss"] for row in read_metrics(folder / "runs" / name / "metrics.jsonl")]
        for name in ("whole", "killed")
    ]
    assert losses[0] == losses[1]
    first, second = read_attempts(run)
    assert (first.start.restart, second.start.restart) == (0, 1)
    assert first.failed
    assert (second.start.step >= 10, second.end.code) == (True, 0)


def rank_of(word, rank):
    """The process that trains as this rank; where a supervisor started it, that is another one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
            if word.encode() in words and f"RANK={rank}".encode() in variables:
                found.append(int(process.name))
    return max(found)


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, capsys, caplog):
    from tests.train.small import small_config

    config = small_config()
    config = config.model_copy(
        update={"run": config.run.model_copy(update={"dir": str(tmp_path / "none")})}
    )
    attempt = RunAttempt(config, Ranks(0, 1, 0, 1, "127.0.0.1", 1, "single"), {})
    with attempt.noted():
        attempt.begin(None)
    assert "attempts.jsonl is not written" in caplog.text + capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt), attempt.noted():
        raise KeyboardInterrupt


def test_max_attempts_is_a_count(folder):
    from tttscale.errors import ConfigError

    with pytest.raises(ConfigError, match=r"checkpoint\.max_attempts"):
        load_config(folder / "run.yaml", ["checkpoint.max_attempts=-1"])
