"""Ctrl-C and SIGTERM end a real run: one line, the shell's code, no traceback from any rank."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.warm import Command, Fresh
from tttscale.cluster.interrupts import Interrupts
from tttscale.data import build_store
from tttscale.observe import read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    text = folder / "text.txt"
    text.write_text("the quick brown fox. " * 60)
    build_store(folder / "store", [str(text)])
    config = {
        "run": {"name": "run", "dir": str(folder / "runs")},
        "model": {
            "vocab_size": 259,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "mini_batch_size": 4,
        },
        "data": {"store": str(folder / "store"), "sequence_length": 64},
        "parallel": {"chunk_length": 16},
        "train": {"steps": 1000000, "precision": "fp32"},
        "evaluate": {"sequences": 0},
        "logging": {"wandb": {"mode": "disabled"}},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def signal_once_it_runs(started, folder, name, number, whole_group=False):
    """Signal a run after two steps; returns its code, stderr and the metrics."""
    metrics = folder / "runs" / name / "metrics.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            assert started.poll() is None, started.said()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (os.killpg if whole_group else os.kill)(started.pid, number)
        done = started.wait(60)
    finally:
        started.kill()
    return done.returncode, done.stderr, read_metrics(metrics)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_alone(folder, number, code):
    name = f"alone{code}"
    started = Command(["train", folder / "run.yaml", f"run.name={name}"])
    found, errors, records = signal_once_it_runs(started, folder, name, number)
    assert (found, errors.splitlines()[-1]) == (code, "interrupted")
    assert "Traceback" not in errors
    assert len(records) >= 2


@pytest.mark.parametrize(
    ("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, False)], ids=["tty", "term"]
)
def test_under_torchrun(folder, number, whole_group):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    name = f"torchrun{number}"
    words = ("-m", "tttscale", "train", folder / "run.yaml", f"run.name={name}")
    started = Fresh([sys.executable, *launcher, *words, "parallel.sequence=2"])
    code, errors, records = signal_once_it_runs(started, folder, name, number, whole_group)
    assert code != 0
    assert errors.splitlines().count("interrupted") == 1
    frames = [line for line in errors.splitlines() if line.strip().startswith("File ")]
    assert not [line for line in frames if "/tttscale/" in line]  # torchrun prints its own
    assert "error: " not in errors.lower().replace("childfailederror: ", "")
    assert len(records) >= 2


def test_handlers_come_back_when_no_signal_came():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_same_signal_passed_on_by_the_launcher():
    check = (
        "import os, signal, time\n"
        "from tttscale.cluster.interrupts import Interrupted, Interrupts\n"
        "with Interrupts():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\n"
        "    except Interrupted as first: code = first.exit_code\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', code, flush=True)\n"
        "    time.sleep(2.1)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(1)\n"
        "    print('not reached')\n"
    )
    done = Fresh([sys.executable, "-c", check]).wait()
    assert (done.returncode, done.stdout) == (143, "still here 130\n")


SAVING = """
import os, signal, sys, threading, time
from tttscale.cluster.interrupts import Interrupted, Interrupts, SaveRequests

def send(number, after):
    threading.Timer(after, os.kill, (os.getpid(), number)).start()

with Interrupts(), SaveRequests() as requests:
    try:
        with requests.also_sigterm():
            {what}
            print(requests.heard and requests.heard.name, flush=True)
        if requests.heard is None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    except Interrupted as end:
        print("interrupted", end.exit_code, flush=True)
"""


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("send(15, 0); send(15, 0.2); time.sleep(1)", 0, "SIGTERM\n"),
        ("send(15, 0); send(15, 2.5); time.sleep(5); print('not reached')", 143, ""),
        ("send(15, 0); send(2, 0.5); time.sleep(5)", 0, "interrupted 130\n"),
        ("send(10, 0); time.sleep(0.5)", 0, "SIGUSR1\n"),
        ("pass", 0, "None\ninterrupted 143\n"),  # afterwards it ends the process again
    ],
    ids=["once", "twice", "ctrl-c", "usr1", "none"],
)
def test_a_run_takes_sigterm_as_a_request_to_save_it(what, code, said):
    done = Fresh([sys.executable, "-c", SAVING.format(what=what)]).wait()
    assert (done.returncode, done.stdout) == (code, said), done.stderr


def test_the_request_is_heard_while_the_main_thread_is_in_foreign_code():
    """As in a wait for another rank's carry, which may take longer than the grace of other signals."""
    # sleep() returns early when a signal comes.
    blocked = (
        "import ctypes; send(15, 0.1); libc, end = ctypes.CDLL(None), time.monotonic() + 6\n"
        "            pthread = libc.pthread_mutex_lock, ctypes.create_string_buffer(64)\n"
        "            pthread[0](pthread[1]); send_unlock = threading.Timer(6, libc.pthread_mutex_unlock, "
        "(pthread[1],)); send_unlock.start(); pthread[0](pthread[1])"
    )
    done = Fresh([sys.executable, "-c", SAVING.format(what=blocked)]).wait()
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n"), done.stderr


def test_ranks_end_when_torchrun_is_killed(folder):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    words = ("-m", "tttscale", "train", folder / "run.yaml", "run.name=orphans")
    started = Fresh([sys.executable, *launcher, *words, "parallel.sequence=2"])
    _, _, records = signal_once_it_runs(started, folder, "orphans", signal.SIGKILL)
    deadline = time.monotonic() + 30
    while left := those_with("run.name=orphans"):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert "its launcher is gone" in started.said()[1]
    assert len(records) >= 2


LOOP = ("-m", "tttscale", "launch", "again", "--", sys.executable)


def test_a_run_ends_when_the_loop_is_killed(folder):
    words = ("-m", "tttscale", "train", folder / "run.yaml", "run.name=orphan")
    started = Fresh([sys.executable, *LOOP, *words])
    signal_once_it_runs(started, folder, "orphan", signal.SIGKILL)
    deadline = time.monotonic() + 60
    while left := those_with("run.name=orphan"):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_loop_over_torchrun_saves_and_ends(folder, number):
    """torchrun ends with 1 and hands no SIGUSR1 on; the loop ends with the run's 75."""
    name = f"loop{number}"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    words = ("-m", "tttscale", "train", folder / "run.yaml", f"run.name={name}")
    words += ("parallel.sequence=2", "checkpoint.every=1000000")
    started = Fresh([sys.executable, *LOOP, *launcher, *words])
    code, errors, _ = signal_once_it_runs(started, folder, name, number)
    assert code == 75, errors
    assert "again: the command ended with 75 after SIGTERM; it is not started again" in errors
    assert list((folder / "runs" / name / "checkpoints").glob("step-*"))


def those_with(word):
    """Processes that were started with this word."""
    found = []
    for words in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word in words.read_bytes().decode(errors="replace").split("\0"):
                found.append(int(words.parent.name))
    return found
