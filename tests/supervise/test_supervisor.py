"""A rank is forked off, watched, and its end reported: small real processes, without torch."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.supervise.ranks import HEAD, is_running, noted, start, until
from tttscale.supervise import supervisor
from tttscale.supervise.supervisor import is_wanted

ENDS = [
    ("sys.exit(0)", 0, None),
    ("sys.exit(75)", 75, None),
    ("sys.exit(2)", 2, None),
    ("sys.exit(130)", 130, None),
    ("Page.own.say('cause', 'a\\nlayer'); sys.exit(70)", 70, "a layer"),
    ("Page.own.say('cause', 'no store'); sys.exit(65)", 65, "no store"),
    ("sys.exit(70)", 70, "ended with exit code 70, without a word"),
    ("sys.exit(1)", 70, "ended with exit code 1, without a word"),
    ("sys.exit(76)", 76, "ended with exit code 76, without a word"),
    ("os.kill(os.getpid(), 9)", 71, "killed by SIGKILL (perhaps for lack of memory: "),
    ("os.kill(os.getpid(), 15)", 71, "killed by SIGTERM"),
    ("os.abort()", 71, "killed by SIGABRT (a library gave up; its words are above)"),
    ("ctypes.string_at(0)", 71, "killed by SIGSEGV (a crash in a library)"),
]


@pytest.mark.parametrize(("body", "code", "cause"), ENDS, ids=[body for body, *_ in ENDS])
def test_a_rank_ends_and_its_supervisor_says_how(tmp_path, body, code, cause):
    done = start(tmp_path, body).wait()
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("FAILED ")]
    if cause is None:
        assert done.stderr == ""
        assert list(tmp_path.iterdir()) == []
        return
    (line,) = lines
    assert line.startswith(f"FAILED rank=0 host={os.uname().nodename} phase=step step=7 cause=")
    assert cause in line
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert (failure["rank"], failure["phase"], failure["step"]) == (0, "step", 7)
    assert (failure["exit_code"], failure["world_size"]) == (code, 1)
    assert line.endswith(f"cause={failure['cause']}")


@pytest.mark.parametrize(("step", "written"), [(0, False), (1, True)])
def test_a_start_that_is_refused_changes_nothing(tmp_path, step, written):
    body = f"Page.own.enter(Phase.STEP, {step}); Page.own.say('cause', 'a key'); sys.exit(64)"
    done = start(tmp_path, body).wait()
    assert done.returncode == 64
    assert done.stderr.endswith(f"step={step} cause=a key\n")
    assert (tmp_path / "failure.json").exists() == written


def test_a_crash_leaves_its_stack(tmp_path):
    done = start(tmp_path, "def crashing(): ctypes.string_at(0)\ncrashing()").wait()
    text = (tmp_path / "stacks-rank-0.txt").read_text()
    assert "Segmentation fault" in text
    assert "in crashing" in text
    assert str(tmp_path / "stacks-rank-0.txt") in done.stderr
    assert "in string_at" in done.stderr


def test_output_comes_once_and_at_once(tmp_path):
    body = "print('out'); print('err', file=sys.stderr); note('said'); time.sleep(60)"
    started = start(tmp_path, body)
    try:
        noted(tmp_path, "said", started)
        assert started.said()[1] == "err\n"
        os.kill(started.pid, signal.SIGTERM)
        assert started.wait().returncode == 143
    finally:
        started.kill()
    program = "print('before')\n" + HEAD.format(verdict=None, job="") + "print('after')"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("before\nafter\n", "")


LISTENING = """
from tttscale.cluster.interrupts import Interrupted, Interrupts, SaveRequests
with Interrupts(), SaveRequests() as requests:
    with requests.also_sigterm():
        note("ready")
        while requests.heard is None:
            time.sleep(0.02)
    note("heard")
    print(requests.heard.name, flush=True)
    sys.exit(75)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_save_is_passed_on(tmp_path, number):
    started = start(tmp_path, LISTENING)
    try:
        noted(tmp_path, "ready", started)
        os.kill(started.pid, number)
        done = started.wait(60)
    finally:
        started.kill()
    assert (done.returncode, done.stdout, done.stderr) == (75, f"{number.name}\n", "")


def test_a_request_that_comes_too_early_is_heard_later(tmp_path):
    """SIGUSR1 would end a process that does not listen yet."""
    body = "note('early')\nwhile not os.path.exists(sys.argv[1] + '/go'): time.sleep(0.02)"
    started = start(tmp_path, body + LISTENING)
    try:
        noted(tmp_path, "early", started)
        os.kill(started.pid, signal.SIGUSR1)
        time.sleep(0.3)
        (tmp_path / "go").touch()
        done = started.wait(60)
    finally:
        started.kill()
    assert (done.returncode, done.stdout) == (75, "SIGUSR1\n"), done.stderr


DEAF = """
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGINT, lambda *_: None)
note("ready")
while True:
    time.sleep(1)
"""


def test_a_second_signal_ends_a_rank_that_does_not_listen(tmp_path):
    started = start(tmp_path, DEAF)
    try:
        child = noted(tmp_path, "ready", started)
        os.kill(started.pid, signal.SIGTERM)
        time.sleep(2.5)  # within two seconds they count as one
        os.kill(started.pid, signal.SIGTERM)
        done = started.wait(60)
    finally:
        started.kill()
    assert (done.returncode, done.stderr) == (143, "")
    assert not is_running(child)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGQUIT, 131), (signal.SIGINT, 130)]
)
def test_a_signal_that_ends_the_rank_is_no_failure(tmp_path, number, code):
    body = "signal.signal(signal.SIGINT, signal.SIG_DFL); note('ready'); time.sleep(60)"
    started = start(tmp_path, body)
    try:
        noted(tmp_path, "ready", started)
        os.kill(started.pid, number)
        done = started.wait(60)
    finally:
        started.kill()
    assert (done.returncode, done.stderr) == (code, "")


def test_ctrl_c_of_a_terminal_reaches_both(tmp_path):
    """The terminal signals the whole group; the rank sees it twice and takes it for one."""
    body = """
from tttscale.cluster.interrupts import Interrupted, Interrupts
with Interrupts():
    try:
        note("ready")
        time.sleep(60)
    except Interrupted as signalled:
        code = signalled.exit_code
        time.sleep(1)
        print("cleaned up", flush=True)
sys.exit(code)
"""
    program = HEAD.format(verdict=None, job="") + body
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", program, str(tmp_path)])
    until((tmp_path / "ready").exists)
    os.write(terminal, b"\x03")
    shown = b""
    try:
        while more := os.read(terminal, 1000):
            shown += more
    except OSError:  # the other end is closed
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert shown.split() == [b"^Ccleaned", b"up"]


@pytest.mark.parametrize("when", ["while it runs", "while it is stopped"])
def test_a_rank_is_gone_with_its_supervisor(tmp_path, when):
    started = start(tmp_path, "note('ready'); time.sleep(600)")
    try:
        child = noted(tmp_path, "ready", started)
        if when == "while it is stopped":
            os.kill(child, signal.SIGSTOP)
        os.kill(started.pid, signal.SIGKILL)
        until(lambda: not is_running(child))
    finally:
        started.kill()


def test_stopping_and_continuing_reach_the_rank(tmp_path):
    started = start(tmp_path, "note('ready'); time.sleep(600)")
    try:
        child = noted(tmp_path, "ready", started)
        os.kill(started.pid, signal.SIGTSTP)
        until(lambda: state(child) == state(started.pid) == "T", started)
        os.kill(started.pid, signal.SIGCONT)
        until(lambda: "T" not in (state(child), state(started.pid)), started)
        os.kill(started.pid, signal.SIGTERM)
        assert started.wait(60).returncode == 143
    finally:
        started.kill()


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


HANG = (0, "here", "step", 7, "no progress for 60 s", 72)
STUCK = {
    "stopped": "note('judge'); os.kill(os.getpid(), signal.SIGSTOP)",
    "asleep": "note('judge'); time.sleep(600)",
    "endless": "note('judge')\nwhile True: pass",
    "lock held": "note('judge'); ctypes.PyDLL(None).sleep(600)",
    "regex": "import re; note('judge'); re.match('(a+)+$', 'a' * 40 + 'b')",
}


@pytest.mark.parametrize("how", STUCK)
def test_a_rank_that_hangs_writes_its_stacks_and_is_killed(tmp_path, how):
    body = "def stuck():\n" + "".join(f"    {line}\n" for line in STUCK[how].split("\n"))
    thread = (
        "import threading; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    started = start(tmp_path, thread + body + "stuck()", verdict=HANG)
    done = started.wait(60)
    child = int((tmp_path / "judge").read_text())
    assert not is_running(child)
    assert done.returncode == 72
    stacks = (tmp_path / "stacks-rank-0.txt").read_text()
    assert "in stuck" in stacks
    assert stacks.count("most recent call first") == 2  # threads
    lines = done.stderr.splitlines()
    assert lines[0].startswith("rank 0 stood here")
    assert str(tmp_path / "stacks-rank-0.txt") in lines[0]
    assert any("in stuck" in line for line in lines[1:-1])
    assert lines[-1] == "FAILED rank=0 host=here phase=step step=7 cause=no progress for 60 s"
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert (failure["exit_code"], failure["stacks"]) == (72, ["stacks-rank-0.txt"])


def test_a_verdict_about_another_rank_ends_this_one_at_once(tmp_path):
    verdict = (3, "there", "step", 7, "killed by SIGKILL", 71)
    done = start(tmp_path, "note('judge'); time.sleep(600)", verdict=verdict).wait(60)
    assert done.returncode == 71
    assert done.stderr == "FAILED rank=3 host=there phase=step step=7 cause=killed by SIGKILL\n"
    assert not (tmp_path / "stacks-rank-0.txt").exists()


def test_stacks_can_be_asked_for(tmp_path):
    started = start(tmp_path, "def waiting(): time.sleep(600)\nnote('ready')\nwaiting()")
    try:
        child = noted(tmp_path, "ready", started)
        os.kill(started.pid, signal.SIGUSR2)
        until(lambda: "stacks-rank-0.txt" in started.said()[1], started)
        assert "in waiting" in (tmp_path / "stacks-rank-0.txt").read_text()
        assert is_running(child)
    finally:
        started.kill()


@pytest.mark.parametrize(
    ("words", "environ", "wanted"),
    [
        (["train", "run.yaml"], {}, True),
        (["train", "run.yaml"], {"TTTSCALE_SUPERVISOR": "off"}, False),
        (["train", "--help"], {}, False),
        (["train", "run.yaml", "--print-config"], {}, False),
        (["profile", "run.yaml"], {}, False),
        (["profile", "run.yaml"], {"RANK": "0", "WORLD_SIZE": "2"}, True),
        (["plan", "run.yaml"], {}, False),
        (["data", "build"], {}, False),
        ([], {}, False),
    ],
)
def test_which_commands_are_watched(words, environ, wanted, monkeypatch):
    monkeypatch.setattr(supervisor, "is_single_threaded", lambda: True)  # unlike pytest
    assert is_wanted(words, environ) is wanted


def test_a_process_with_threads_is_not_forked():
    program = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "from tttscale.supervise.supervisor import is_wanted\n"
        "print(is_wanted(['train', 'run.yaml'], {}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert "TTTSCALE_SUPERVISOR=off" in done.stderr


@pytest.mark.parametrize("rank_0_writes", [True, False])
def test_failure_json_is_written_once(tmp_path, rank_0_writes):
    """By rank 0, or by another one if that does not come to it."""
    places = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    verdict = (0, "there", "step", 7, "killed by SIGKILL", 71)
    body = "note('judge'); time.sleep(600)"
    if rank_0_writes:
        body = "note('failure.json'); " + body
    done = start(tmp_path, body, verdict, places).wait()
    assert done.returncode == 71, done.stderr
    text = (tmp_path / "failure.json").read_text()
    assert text.isdecimal() == rank_0_writes  # what the rank has noted there
    assert rank_0_writes or json.loads(text)["cause"] == "killed by SIGKILL"
