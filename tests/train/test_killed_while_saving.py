"""Killed while a checkpoint is written beside the steps, at every kind of moment: resumed to the same bits.

Repeated kills at random moments are for the campaigns; here each change of the disk by the writing thread is
a moment.
"""

import re

import pytest

from tests.train.test_resume import records, weights
from tests.train.test_run import run
from tests.warm import tttscale

SAVES = ["train.steps=9", "train.lr_final=1e-3", "checkpoint.every=2", "checkpoint.keep=2"]

KILLED = """
import os, signal, threading
from pathlib import Path

left = {at}

def counted(owner, name):
    plain = getattr(owner, name)
    def call(*words, **options):
        global left
        if threading.current_thread().name == "checkpoint" and os.environ.get("RANK", "0") == "{rank}":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return plain(*words, **options)
    setattr(owner, name, call)

for name in ("fsync", "unlink", "rmdir"):
    counted(os, name)
for name in ("mkdir", "rename", "replace"):
    counted(Path, name)
"""

LATE = """
import time
from tttscale.train.checkpoint.writer import CheckpointWriter
from tttscale.train.trainer import Trainer

plain, step, at = CheckpointWriter._write_files, Trainer.step, [0]

def begun(self, number, windows):
    at[0] = number
    return step(self, number, windows)

def late(self, snapshot):
    while at[0] <= snapshot.step < {steps}:  # until a later step has begun
        time.sleep(0.001)
    return plain(self, snapshot)

Trainer.step, CheckpointWriter._write_files = begun, late
"""


def truth(folder, name, *overrides, ranks=1):
    done = run(folder, f"run.name={name}", *SAVES, "checkpoint.every=0", *overrides, ranks=ranks)
    assert done.returncode == 0, done.stderr
    return records(folder, name), weights(folder, name)


@pytest.fixture(scope="module")
def whole(folder):
    """A run that saves nothing at all."""
    return truth(folder, "whole")


@pytest.fixture(scope="module")
def split(folder):
    return truth(folder, "split", "parallel.sequence=2", "zero.stage=2", ranks=2)


def test_saves_beside_the_steps_change_no_number(folder, whole):
    """Each is written while a later step runs; so is the second half of a run that resumes from one."""
    late = LATE.format(steps=9)
    words = ("train", folder / "run.yaml", "run.name=beside", *SAVES)
    done = tttscale(*words, before=late)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"checkpoints/step-[2468] \(.*; the step waited", done.stdout)) == 4
    assert (records(folder, "beside"), weights(folder, "beside")) == whole
    waits = run(folder, "run.name=waits", *SAVES, "checkpoint.background=false")
    assert "the step waited" not in waits.stdout
    assert (records(folder, "waits"), weights(folder, "waits")) == whole


@pytest.mark.parametrize("at", [0, 3, 6, 9, 12, 15, 25, 40])
def test_killed_at_a_change_of_the_disk(folder, whole, at):
    name = f"killed-{at}"
    before = KILLED.format(at=at, rank=0) + LATE.format(steps=9)
    words = ("train", folder / "run.yaml", f"run.name={name}", *SAVES)
    died = tttscale(*words, before=before)
    assert died.returncode == 71, died.stderr
    assert "cause=killed by SIGKILL" in died.stderr
    done = run(folder, f"run.name={name}", *SAVES)
    assert done.returncode == 0, done.stderr
    assert (records(folder, name), weights(folder, name)) == whole
    there = sorted(p.name for p in (folder / "runs" / name / "checkpoints").iterdir())
    assert [n for n in there if not n.startswith("set-aside")] == ["step-8", "step-9"]


@pytest.mark.parametrize(("rank", "at"), [(0, 14), (1, 1)])
def test_one_rank_of_two_is_killed_while_it_writes(folder, split, rank, at):
    name = f"killed-rank-{rank}"
    words = (f"run.name={name}", "parallel.sequence=2", "zero.stage=2", *SAVES)
    before = KILLED.format(at=at, rank=rank) + LATE.format(steps=9)
    died = tttscale("train", folder / "run.yaml", *words, ranks=2, before=before)
    assert died.returncode != 0
    done = run(folder, *words, ranks=2)
    assert done.returncode == 0, done.stderr
    assert (records(folder, name), weights(folder, name)) == split
