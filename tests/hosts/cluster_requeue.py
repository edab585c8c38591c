"""Ends of jobs of a real Slurm: the exit code is the run's, and a save or a lost node is queued again."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hosts import run as runs
from tests.hosts.cluster_slurm import NO_GPU, PLACE, log, words
from tests.hosts.lab import poll, shell
from tttscale.supervise.attempts import read_attempts

STEPS = 60
LONG = (f"train.steps={STEPS}", "checkpoint.every=5")


def job_of(site, cluster, case, *more):
    """Submit launch/slurm.sbatch with a run of many steps."""
    more_time = "--time=30"  # less than --signal's five minutes would be told to save at once
    line = shell("sbatch", *PLACE, more_time, NO_GPU, "launch/slurm.sbatch", *words(site, case))
    line += " " + shell(*LONG, *more)
    case.say(hosts="2 x 2", command=line)
    return cluster.submit(line, site.checkout)


def folder(site, case):
    return site.work / "runs" / case.run


def wait_for_steps(site, case, count):
    """Until the run has done so many steps, and has a checkpoint."""

    def done():
        with suppress(OSError):
            lines = (folder(site, case) / "metrics.jsonl").read_text().count("\n")
            return lines >= count and any((folder(site, case) / "checkpoints").glob("step-*"))

    poll(done, f"{count} steps", 180.0)


@pytest.fixture(scope="module")
def whole(site, cluster):
    """The losses of the same ranks, never interrupted."""
    words = (
        "../work/tiny.yaml",
        "run.name=whole",
        "run.dir=../work/runs",
        "data.store=../work/store",
    )
    line = shell("srun", *PLACE, ".venv/bin/python", "-m", "tttscale", "train", *words, *LONG)
    cluster.run(f"OMP_NUM_THREADS=1 {line}", site.checkout).passed()
    return runs.losses(site.work, "whole")


def check_same_bits(site, case, whole, ends, restarts=(0, 1)):
    assert runs.losses(site.work, case.run) == whole
    attempts = read_attempts(folder(site, case))
    assert [attempt.end and attempt.end.code for attempt in attempts] == ends
    assert tuple(attempt.start.restart for attempt in attempts) == restarts
    case.say(result=f"{STEPS} losses equal those of an uninterrupted run to the last bit")


def test_a_save_is_queued_again(site, cluster, case, whole):
    case.say(launcher="Slurm, saved on SIGUSR1 and requeued")
    job = job_of(site, cluster, case)
    wait_for_steps(site, case, 8)
    cluster.call(f"scancel --signal=USR1 {job}")
    cluster.wait_for_requeue(job)
    assert cluster.wait(job) == "COMPLETED", log(site, job)
    assert cluster.shown(job, "ExitCode") == "0:0"
    check_same_bits(site, case, whole, [75, 0])


def test_a_job_is_preempted(site, cluster, case, whole):
    """A job of a partition with a higher priority needs all cores: Slurm sends SIGTERM, and waits."""
    case.say(launcher="Slurm, preempted by another job")
    job = job_of(site, cluster, case)
    wait_for_steps(site, case, 8)
    place = ("--partition=urgent", "--nodes=2", "--ntasks-per-node=4", "--time=5", NO_GPU)
    urgent = cluster.submit(shell("sbatch", *place, "--wrap=sleep 5"), site.work)
    assert cluster.wait(urgent) == "COMPLETED"
    cluster.wait_for_requeue(job)
    assert cluster.wait(job) == "COMPLETED", log(site, job)
    restarts = 0, int(cluster.shown(job, "Restarts"))
    check_same_bits(site, case, whole, [75, 0], restarts)


def test_a_node_dies(site, cluster, case, whole):
    """Its cable is pulled, and then its power: nothing says goodbye. Later it boots again."""
    case.say(launcher="Slurm, a node lost and the job requeued")
    job = job_of(site, cluster, case)
    wait_for_steps(site, case, 8)
    node = cluster.lab["node2"]
    cluster.lab.unplug(node, 0)
    try:
        node.do(KILL)
        poll(lambda: cluster.shown(job, "Restarts") != "0", "Slurm notices", 180.0)
    finally:
        cluster.lab.plug(node, 0)
        cluster.boot(node)
    # The node may still be told to end what it ran before it died.
    cluster.wait_for_requeue(job, delay_seconds=60)
    assert cluster.wait(job) == "COMPLETED", log(site, job)
    found = read_attempts(folder(site, case))
    assert found[0].failed
    # A start that Slurm ends with what the node ran before never comes to the run, and is queued again, too.
    restarts = 0, int(cluster.shown(job, "Restarts"))
    check_same_bits(site, case, whole, [found[0].end and found[0].end.code, 0], restarts)


KILL = """
for pid in $(ps -eo pid=,comm= | awk '$2 ~ /slurm|python|bash/ {print $1}'); do
  kill -KILL $pid 2>/dev/null || true
done
"""
"""All of a node's own processes that have to do with jobs."""


def test_a_killed_rank_is_queued_again(site, cluster, case, whole):
    case.say(launcher="Slurm, a rank killed and the job requeued")
    job = job_of(site, cluster, case)
    wait_for_steps(site, case, 8)
    os.kill(rank_of(f"run.name={case.run}", 3), signal.SIGKILL)
    cluster.wait_for_requeue(job)
    assert cluster.wait(job) == "COMPLETED", log(site, job)
    check_same_bits(site, case, whole, [71, 0])


@pytest.mark.parametrize(
    ("words", "code"), [(("train.lrr=1",), 64), (("data.store=../work/none",), 65)]
)
def test_the_jobs_code_is_the_runs(site, cluster, case, words, code):
    case.say(launcher=f"Slurm, a run that ends with {code}")
    job = job_of(site, cluster, case, *words)
    assert cluster.wait(job) == "FAILED", log(site, job)
    assert cluster.shown(job, "ExitCode") == f"{code}:0"
    assert cluster.shown(job, "Restarts") == "0"
    case.say(result=f"ExitCode={code}:0, not queued again")


def test_a_save_without_requeue_shows_its_code(site, cluster, case):
    """The way to stop a run for good, which the command prints."""
    case.say(launcher="Slurm, saved for good")
    job = job_of(site, cluster, case)
    wait_for_steps(site, case, 8)
    cluster.call(f"scontrol update JobId={job} Requeue=0 && scancel --signal=USR1 {job}")
    assert cluster.wait(job) == "FAILED", log(site, job)
    assert cluster.shown(job, "ExitCode") == "75:0"
    end = read_attempts(folder(site, case))[-1].end
    assert end is not None
    assert end.code == 75
    case.say(result="ExitCode=75:0, not queued again")


def test_a_cancelled_job_is_not_queued_again(site, cluster, case):
    case.say(launcher="Slurm, cancelled")
    job = job_of(site, cluster, case)
    wait_for_steps(site, case, 8)
    cluster.call(f"scancel {job}")
    assert cluster.wait(job) == "CANCELLED", log(site, job)
    cluster.wait_until_idle()
    assert (cluster.state(job), cluster.shown(job, "Restarts")) == ("CANCELLED", "0")
    case.say(result="CANCELLED, not queued again")


def rank_of(word, rank):
    """The process that trains as this rank; where a supervisor started it, that is another one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
            is_python = b"-m" in command and command[0].endswith(b"python")
            if (
                is_python
                and word.encode() in command
                and f"SLURM_PROCID={rank}".encode() in variables
            ):
                found.append(int(process.name))
    return max(found)
