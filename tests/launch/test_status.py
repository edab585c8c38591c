"""`tttscale launch status` on every kind of folder."""

import json
import os
import subprocess
import sys
import time

import pytest

from tttscale import cli
from tttscale.launch.status import State, look
from tttscale.supervise import attempts
from tttscale.train.checkpoint.manifest import Manifest

CONFIG = """\
run: {name: quick}
model: {preset: ttt-linear-125m}
data: {store: stores/text, sequence_length: 64Ki}
train: {steps: 20}
"""
FAILED = {"rank": 3, "host": "node2", "phase": "step", "step": 8, "cause": "killed by SIGKILL"}


class Folder:
    """A run's folder, made of its files."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        (path / "config.yaml").write_text(CONFIG)

    def records(self, last, seconds=2.0, age=0.0):
        file = self.path / "metrics.jsonl"
        rows = [
            {"step": n, "loss": 1.0, "step_seconds": seconds, "between_seconds": 0.5 * (n > 1)}
            for n in range(1, last + 1)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.utime(file, (time.time() - age,) * 2)
        return self

    def start(self, restart=0, **changes):
        start = attempts.this_process(0, restart, "slurm", 4, 2)
        self.number = attempts.begin(self.path, start.model_copy(update=changes))
        return self

    def end(self, code, cause="", step=8):
        attempts.end(self.path, self.number, code, step, cause)
        return self

    def write(self, name, text):
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(text)
        return self


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "quick")


def test_a_run_that_runs(folder):
    found = look(folder.start(time=time.time() - 60).records(8, age=3).path)
    assert (found.state, found.step, found.steps, found.exit_code) == (State.RUNNING, 8, 20, None)
    assert f"process {os.getpid()}" in found.says
    assert found.says.endswith("the last record is 3 s old")
    assert found.steps_per_hour == pytest.approx(3600 / 2.4375)
    lines = found.text().splitlines()
    assert lines[0] == f"{folder.path}: running, step 8 of 20"
    assert "  last checkpoint: none" in lines
    assert "  speed: 1477 steps per hour" in lines
    assert "  attempts: 1" in lines


def test_a_run_in_its_start_up(folder):
    assert look(folder.start().path).says.endswith("no step is done yet")


def test_a_run_that_may_hang(folder):
    folder.start(time=time.time() - 7000).records(8, age=3600)
    found = look(folder.path)
    assert found.state == State.RUNNING  # its process is there
    assert found.says.endswith("no record for 60 min, though a step takes 2.5 s: it may hang")


def test_a_run_on_another_host(folder):
    other = {"place": "another", "host": "node7", "time": time.time() - 7000}
    folder.start(**other)
    found = look(folder.records(8, age=30).path)
    assert (found.state, "on node7" in found.says) == (State.RUNNING, True)
    found = look(folder.records(8, age=3600).path)
    assert found.state == State.SILENT
    assert "it hangs there, or was killed with its host" in found.says
    slow = look(folder.records(8, seconds=2000.0, age=3600).path)  # a step may take so long
    assert slow.state == State.RUNNING


def test_a_run_that_was_killed(folder):
    folder.start(ticks=1).records(8)
    found = look(folder.path)
    assert (found.state, found.exit_code) == (State.KILLED, None)
    assert "killed without a word" in found.text()
    assert "the same command again: it resumes" in found.next


def test_a_run_that_is_done(folder):
    folder.start().records(20).end(0, step=20)
    found = look(folder.path)
    assert (found.state, found.exit_code, found.meaning[:4]) == (State.DONE, 0, "done")


def test_a_run_that_was_saved(folder):
    found = look(folder.start().records(8).end(75).path)
    assert (found.state, found.next) == (State.SAVED, "start the same command again: it resumes")


@pytest.mark.parametrize("code", [130, 143])
def test_a_run_that_was_told_to_end(folder, code):
    found = look(folder.start().records(8).end(code).path)
    assert (found.state, found.meaning) == (State.INTERRUPTED, "interrupted")


def test_a_run_that_failed(folder):
    folder.start().records(8).end(71, "lost rank 2")
    folder.write("failure.json", json.dumps({**FAILED, "exit_code": 71}))
    found = look(folder.path)
    assert found.state == State.FAILED
    line = "FAILED rank=3 host=node2 phase=step step=8 cause=killed by SIGKILL"
    assert found.failed == line
    text = found.text()
    assert line in text
    assert "exit code 71: peer lost; a rank was killed" in text
    assert "next: start the same command again: it resumes; if it is the same host again" in text


@pytest.mark.parametrize("code", [64, 65, 66, 69, 70, 72, 74, 77])
def test_every_failure_says_what_to_do(folder, code):
    found = look(folder.start().end(code, "because").path)
    assert (found.state, found.exit_code) == (State.FAILED, code)
    assert "because" in found.says
    assert found.next
    assert found.meaning


def test_starts_without_progress_are_counted(folder):
    for restart in range(12):
        folder.start(restart).end(71, "lost rank 2")
    found = look(folder.path)
    assert "the last 12 starts failed without a new checkpoint" in found.says
    assert "attempts: 12, the last 10:" in found.text()
    assert len(found.attempts) == 12


def test_a_run_that_diverged(folder):
    folder.start().records(8).end(76, "step 9: the loss is not finite")
    folder.write("diverged.json", json.dumps({"step": 9, "times": 2}))
    found = look(folder.path)
    assert found.state == State.DIVERGED
    assert "step 9: the loss is not finite (diverged.json: step 9 has failed 2 times)" in found.says


def test_a_run_that_never_started(folder):
    assert look(folder.path).state == State.NEVER_STARTED


def test_runs_of_an_earlier_version(folder):
    found = look(folder.records(8, age=7200).path)
    assert (found.state, found.says[-7:]) == (State.UNKNOWN, "2 h old")
    folder.write("final/model.safetensors", "").write("final/config.json", "{}")
    assert look(folder.path).state == State.DONE


def test_the_newest_checkpoint_that_is_whole(folder):
    for step in (1, 2):
        manifest = Manifest(step=step, tokens=9, updates=1, wandb_id=None, versions={}, files={})
        (folder.path / f"checkpoints/step-{step}").mkdir(parents=True)
        folder.write(f"checkpoints/step-{step}/checkpoint.json", manifest.render())
    found = look(folder.path)
    assert found.checkpoint_step == 2
    assert found.checkpoint == str(folder.path / "checkpoints" / "step-2")
    assert 0 <= found.checkpoint_age_seconds < 600
    (folder.path / "checkpoints/step-2/checkpoint.json").write_text("{}")
    assert look(folder.path).checkpoint_step == 1


@pytest.mark.parametrize(
    "name", ["attempts.jsonl", "failure.json", "diverged.json", "metrics.jsonl", "config.yaml"]
)
@pytest.mark.parametrize("text", ["", "\x00\xff{", "[]", '{"step": "\x1b[2J"}\n', "{" * 9999])
def test_harmed_files_cost_only_what_they_say(folder, name, text):
    folder.start().records(8).end(76, "step 9: not finite")
    folder.write("diverged.json", "{}").write("failure.json", "{}").write(name, text)
    found = look(folder.path)
    assert found.state in (State.DIVERGED, State.UNKNOWN)
    assert json.loads(found.json())["state"] == found.state
    assert found.text().isprintable() or "\n" in found.text()
    assert "\x1b" not in found.text()


@pytest.mark.parametrize("value", ["abc", "1e9", None, [], 1.5])
@pytest.mark.parametrize("name", ["failure.json", "diverged.json"])
def test_numbers_that_are_none(folder, name, value):
    folder.start().records(8).end(76, "step 9: not finite")
    folder.write(name, json.dumps({**FAILED, "exit_code": 76, "step": value, "times": value}))
    assert look(folder.path).state == State.DIVERGED


def test_steps_that_took_no_time(folder):
    """Their number per hour is finite, or unknown."""
    json.loads(
        look(folder.records(8, seconds=1e-310).path).json(),
        parse_constant=lambda name: pytest.fail(name),
    )


def test_what_a_terminal_would_obey_is_escaped(folder):
    folder.start().end(70, "bad \x1b]0;planted\x07 s3://me:hidden1@host/x")
    text = look(folder.path).text()
    assert "\x1b" not in text
    assert "\\x1b]0;planted" in text
    assert "hidden1" not in text


def test_metrics_of_gigabytes_are_not_read(folder):
    folder.start().records(8)
    with (folder.path / "metrics.jsonl").open("r+b") as file:
        file.truncate(6 << 30)
        file.seek(0, 2)
        file.write(b'\n{"step": 9, "step_seconds": 1.0, "between_seconds": 0}\n')
    assert look(folder.path).step == 9


def command(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["launch", "status", *map(str, words)])
    return caught.value.code, *capsys.readouterr()


def test_the_command(folder, capsys):
    folder.start().records(8).end(65, "shard 3 is damaged")
    code, text, _ = command(capsys, folder.path)
    assert code == 0
    assert text.startswith(f"{folder.path}: failed, step 8 of 20\n")
    code, text, _ = command(capsys, folder.path, "--json")
    assert code == 0
    found = json.loads(text)
    assert (found["state"], found["exit_code"], found["steps"]) == ("failed", 65, 20)
    assert found["attempts"][0]["end"]["cause"] == "shard 3 is damaged"


def test_a_folder_that_is_no_runs(tmp_path, capsys):
    for path, what in ((tmp_path, "holds none of a run's files"), (tmp_path / "no", "no such")):
        code, out, err = command(capsys, path)
        assert (code, out) == (64, "")
        assert what in err
        assert "such as runs/quickstart" in err


def test_it_loads_no_torch(folder):
    check = (
        "import sys, tttscale.cli\n"
        "try: tttscale.cli.main(['launch', 'status', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check, folder.start().path], check=True)
