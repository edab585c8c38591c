"""`tttscale launch again` with a fake child: which ends it retries, what it passes on, when it stops."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.warm import Fresh
from tttscale import cli
from tttscale.codes import CODES
from tttscale.launch.again import Again, WatchedRun, run_of
from tttscale.supervise import attempts

CONFIG = """\
run: {name: quick, dir: DIR}
model: {preset: ttt-linear-125m}
data: {store: stores/text, sequence_length: 64Ki}
train: {steps: 10}
checkpoint: {every: 5}
"""
CHILD = """
import json, os, pathlib, sys
from tttscale.supervise import attempts
here = pathlib.Path(sys.argv[1])
plan = json.loads((here / "plan").read_text())
done = here / "done"
number = int(done.read_text()) if done.exists() else 0
done.write_text(str(number + 1))
with (here / "counts").open("a") as file:
    file.write(os.environ["TTTSCALE_RESTART_COUNT"] + " ")
own, said, checkpoint = plan[min(number, len(plan) - 1)]
run = here / "runs" / "quick"
if said != "absent":
    run.mkdir(parents=True, exist_ok=True)
    step = max((int(p.name[5:]) for p in run.glob("checkpoints/step-*")), default=0)
    start = attempts.this_process(step, int(os.environ["TTTSCALE_RESTART_COUNT"]), "single", 1, 1)
    attempt = attempts.begin(run, start)
    if checkpoint:
        folder = run / "checkpoints" / f"step-{checkpoint}"
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text("{}")
    if said is not None:
        attempts.end(run, attempt, said, checkpoint, "as planned")
if own < 0:
    os.kill(os.getpid(), -own)
sys.exit(own)
"""


@pytest.fixture
def again(tmp_path, monkeypatch):
    """Run the loop over starts that go as planned: (exit code, code in the run's folder, checkpoint)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "run.yaml").write_text(CONFIG.replace("DIR", str(tmp_path / "runs")))
    pauses = []

    def run(*plan, max_restarts=10, environ=None):
        (tmp_path / "plan").write_text(json.dumps(plan))
        command = [sys.executable, "child.py", str(tmp_path), "run.yaml", "--", "train.nonsense=1"]
        loop = Again(
            command,
            run_of(command),
            max_restarts=max_restarts,
            pause_seconds=5,
            environ={**os.environ, **(environ or {})},
            pause=pauses.append,
        )
        code = loop.run()
        return code, (tmp_path / "counts").read_text().split(), pauses

    return run


def test_it_starts_again_until_it_is_done(again):
    code, counts, pauses = again((75, 75, 5), (71, 71, 6), (72, 72, 0), (0, 0, 7))
    assert code == 0
    assert counts == ["0", "1", "2", "3"]
    assert pauses == [5, 5, 5]


@pytest.mark.parametrize("code", [c.number for c in CODES if c.number >= 64 and not c.retry])
def test_a_code_that_a_person_has_to_look_at_ends_it(again, code):
    assert again((code, code, 0)) == (code, ["0"], [])


def test_pauses_grow_and_are_bounded(again, capsys):
    code, counts, pauses = again((69, "absent", 0))
    assert (code, len(counts)) == (69, 11)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert "started again 10 times already (--max-restarts)" in capsys.readouterr().err


def test_the_number_of_restarts_is_bounded(again):
    code, counts, _ = again(*((75, 75, n) for n in range(1, 9)), max_restarts=2)
    assert (code, counts) == (75, ["0", "1", "2"])


def test_what_a_launcher_hides_is_read_from_the_run(again):
    """It ends with 1 after a save, after a lost rank, after a kill; and after damaged data."""
    code, counts, _ = again((1, 75, 5), (1, 71, 6), (1, None, 7), (1, 65, 0))
    assert (code, counts) == (65, ["0", "1", "2", "3"])


def test_what_supervisors_found_out_counts(again, tmp_path):
    (tmp_path / "runs/quick").mkdir(parents=True)
    plan = [(1, 71, 0)]

    def told(seconds):
        raise AssertionError("it was started again")

    (tmp_path / "plan").write_text(json.dumps(plan))
    script = (
        CHILD.replace("if own < 0:", '(run / "failure.json").write_text(FAILURE)\nif own < 0:')
    ).replace("import json", f"FAILURE = {json.dumps(json.dumps(FAILED))}\nimport json")
    (tmp_path / "child.py").write_text(script)
    assert again(*plan)[:2] == (65, ["0"])


FAILED = {"rank": 1, "host": "b", "phase": "step", "step": 3, "cause": "damaged", "exit_code": 65}


def test_a_launcher_that_ends_before_the_run_began_is_not_started_again(again):
    assert again((1, "absent", 0))[:2] == (1, ["0"])


def test_a_command_that_is_killed_is_started_again(again):
    code, counts, _ = again((-9, "absent", 0), (-9, None, 0), (-11, None, 3), (0, 0, 4))
    assert (code, counts) == (0, ["0", "1", "2", "3"])


def test_a_crash_loop_ends_it(again, capsys):
    code, counts, _ = again((71, 71, 4), (71, 71, 0), (-9, None, 0), (72, 72, 0), (0, 0, 9))
    assert (code, counts) == (77, ["0", "1", "2", "3"])
    said = capsys.readouterr().err
    assert "the last 3 starts failed without progress (the newest checkpoint is still that" in said
    assert "with 72 (hang): as planned" in said
    assert "no end, so it runs or was killed" in said


def test_in_a_pod_a_first_start_may_be_a_restart(again):
    code, counts, _ = again((75, 75, 1), (0, 0, 2), environ={"TTTSCALE_RESTART_COUNT": "4"})
    assert (code, counts) == (0, ["4", "5"])


@pytest.mark.parametrize("value", ["", "x", "-3"])
def test_a_count_of_somebody_else_is_none(again, value):
    assert again((0, 0, 2), environ={"TTTSCALE_RESTART_COUNT": value})[1] == ["0"]


def test_the_run_of_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(CONFIG.replace("DIR", "runs"))
    words = ["bash", "launch/torchrun.sh", "missing.yaml", "a.yaml", "run.name=b"]
    found = run_of([*words, "checkpoint.max_attempts=7", "--", "--max-restarts=3", "a=b"])
    assert found == WatchedRun(tmp_path.relative_to(tmp_path) / "runs/b", 7)
    named = run_of(
        ["tttscale", "launch", "torchrun", "quickstart", "-n", "2", "run.name=c", "--", "x=y"]
    )
    assert named is not None
    assert named.folder.as_posix() == "runs/c"
    assert run_of(["bash", "x.sh"]) is None
    assert run_of([*words, "train.nonsense=1"]) is None  # the command says so itself


TRAPPING = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def told(number, _):
    with (here / "heard").open("a") as file:
        file.write(signal.Signals(number).name + " ")
    time.sleep(0.2)
    os._exit(int(sys.argv[2]))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, told)
(here / "ready").touch()
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "heard", "code"),
    [
        (signal.SIGTERM, "SIGTERM ", 75),
        (signal.SIGUSR1, "SIGTERM ", 75),  # SIGUSR1 would end torchrun
        (signal.SIGINT, "SIGINT ", 130),
        (signal.SIGTERM, "SIGTERM ", 71),
    ],
)
def test_signals_are_handed_on_and_it_does_not_start_again(tmp_path, number, heard, code):
    (tmp_path / "child.py").write_text(TRAPPING)
    child = (sys.executable, tmp_path / "child.py", tmp_path, code)
    started = Fresh([sys.executable, "-m", "tttscale", "launch", "again", "--", *child])
    ready_after(started, tmp_path)
    os.kill(started.pid, number)
    done = started.wait(60)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "heard").read_text() == heard
    assert f"ended with {code} after {heard.strip()}; it is not started again" in done.stderr


def test_a_signal_in_a_pause_ends_it(tmp_path):
    (tmp_path / "child.sh").write_text(f"touch {tmp_path}/ready\nexit 71\n")
    words = ("launch", "again", "--pause", "600", "--", "bash", tmp_path / "child.sh")
    started = Fresh([sys.executable, "-m", "tttscale", *words])
    ready_after(started, tmp_path)
    deadline = time.monotonic() + 60
    while "again in" not in started.said()[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGTERM)
    assert started.wait(60).returncode == 71


def ready_after(started, folder):
    deadline = time.monotonic() + 120
    try:
        while not (folder / "ready").exists():
            assert started.poll() is None, started.said()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    except BaseException:
        started.kill()
        raise


def test_a_program_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["launch", "again", "--", "no-such-program"])
    assert caught.value.code == 69
    assert "no-such-program: it cannot be started: No such file" in capsys.readouterr().err


def test_words_after_a_second_dash_dash_are_the_commands(tmp_path):
    line = ["launch", "again", "--", "bash", "-c", 'printf "%s " "$@"', "x", "a", "--", "--b=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tttscale", *line], capture_output=True, text=True, check=True
    )
    assert done.stdout == "a -- --b=1 "


def test_neither_verb_loads_torch(tmp_path):
    check = (
        "import sys, tttscale.launch.again, tttscale.launch.status\n"
        "assert not {'torch', 'deepspeed', 'zarr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_ranks_end_with_the_loop(tmp_path):
    """Killed with -9 it cannot end its command, so ranks look for it as for any launcher."""
    from tttscale.cluster.launcher import _LAUNCHERS

    assert _LAUNCHERS.search("/x/bin/python /x/bin/tttscale launch again -- tttscale train a.yaml")
    assert _LAUNCHERS.search("python -m tttscale launch again --pause 3 -- tttscale train a.yaml")
    assert attempts.RESTARTS[0] == "TTTSCALE_RESTART_COUNT"
