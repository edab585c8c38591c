"""`tttscale launch slurm`: the file that it writes, what it refuses, and what sbatch is asked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tttscale import cli
from tttscale.cluster.slurm import END, RANK, REQUEUE, SlurmJob, render
from tttscale.codes import CODES

RUN = """\
run: {name: quick}
model: {preset: ttt-linear-125m}
data: {store: stores/text, sequence_length: 64Ki}
parallel: {sequence: 4}
train: {steps: 10}
checkpoint: {every: 5}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a configuration, and the only programs on the PATH."""
    (tmp_path / "c.yaml").write_text(RUN)
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")  # the machine may have a Slurm of its own
    return tmp_path


@pytest.fixture
def run(capsys):
    def run_command(*words):
        with pytest.raises(SystemExit) as caught:
            cli.main(["launch", "slurm", *words])
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run_command


def stub(folder, *lines):
    path = folder / "bin" / "sbatch"
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)


def directives(text):
    return dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )


def test_the_file_says_what_was_asked(run, here):
    asked = [
        *("--nodes", "3", "--gpus-per-node", "4", "--time", "2-12", "--partition", "gpu"),
        *("--sbatch", "account=physics", "--sbatch", "exclusive", "--lead-seconds", "600"),
    ]
    overrides = ["train.sequences_per_step=3", "data.store=it's $(touch planted)/`x`"]
    code, text, notes = run("c.yaml", *overrides, *asked, "--dry-run")
    assert code == 0
    assert directives(text) == {
        "job-name": "quick",
        "nodes": "3",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
        "cpus-per-task": "8",
        "time": "2-12",
        "partition": "gpu",
        "signal": "USR1@600",
        "requeue": "",
        "open-mode": "append",
        "output": f"{here}/runs/quick/slurm/%j.log",
        "account": "physics",
        "exclusive": "",
    }
    plain = text.replace(overrides[0], "").replace(str(here), "").replace(sys.executable, "")
    assert len(re.findall(r"\b3\b", plain)) == 1  # the number of nodes
    assert "from this host the data cannot be read" in notes
    assert not (here / "runs").exists()


STUBS = {
    "scontrol": "printf 'node7\\nnode8\\n'",
    "srun": 'shift; "$@"',  # one rank
    "rank": "exit $CODE",
}


def job_ends(here, requeue=True, srun=STUBS["srun"], **environment):
    """Run the job's file by bash itself, with stubs of Slurm's commands; its exit code and their log."""
    override = "data.store=it's $(touch planted)/`x`"
    command = (str(here / "bin/rank"), "train", override)
    job = SlurmJob("quick", 2, 1, command, folder=here, logs=here / "logs", requeue=requeue)
    (here / "logs").mkdir(exist_ok=True)
    (here / "job").write_text(render(job))
    for name, last in {**STUBS, "srun": srun, "sleep": "exit 0"}.items():
        words = """"${@//$'\\n'/ }\""""
        lines = ["#!/bin/bash", f'echo "{name} $MASTER_ADDR" {words} >> {here}/log', last]
        (here / "bin" / name).write_text("\n".join(lines))
        (here / "bin" / name).chmod(0o755)
    (here / "log").write_text("")
    environment = {"PATH": f"{here}/bin:/usr/bin:/bin", **environment}
    environment |= {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "9"}
    done = subprocess.run(
        ["/bin/bash", str(here / "job")], cwd="/", env=environment, check=False, capture_output=True
    )
    assert list((here / "logs").iterdir()) == []
    log = (here / "log").read_text().splitlines()
    return done.returncode, [line for line in log if not line.startswith("sleep")], done


AGAIN = ["scontrol node7 requeue 9"]


@pytest.mark.parametrize("requeue", [True, False])
@pytest.mark.parametrize("code", [0, *(c.number for c in CODES if c.number >= 64), 137])
def test_the_file_runs_on_every_rank_what_was_asked(requeue, code, here):
    """And the job's code is the run's; one that has saved, or lost a rank, is queued again."""
    found, log, _ = job_ends(here, requeue, CODE=str(code))
    code = {137: 71}.get(code, code)  # killed
    assert found == code
    hosts, started, rank, *after = log
    assert hosts == "scontrol  show hostnames node[7-8]"
    assert started.startswith("srun node7 --kill-on-bad-exit=1 bash -c ")
    assert rank == "rank node7 train data.store=it's $(touch planted)/`x`"
    assert after == AGAIN * (requeue and code in (71, 72, 75, 143))
    assert not (here / "planted").exists()


RANKS = """shift; for code in $RANKS; do CODE=$code "$@" || last=$?; done; exit ${last:-0}"""


@pytest.mark.parametrize(
    ("ranks", "code"),
    [
        ("65 71 143", 65),  # the first one is the cause; Slurm has killed the last one
        ("72 137", 72),
        ("137 72", 71),
        ("143 143", 143),
        ("75 75", 75),
        ("0 0", 0),
        ("75 71", 71),  # saved, but not all of them
        ("71 75", 71),
    ],
)
def test_the_first_rank_that_failed_gives_the_jobs_code(here, ranks, code):
    assert job_ends(here, srun=RANKS, RANKS=ranks)[0] == code


def test_an_srun_that_starts_nothing_gives_its_own_code(here):
    assert job_ends(here, srun="exit 3")[0] == 3
    planted = """shift; echo 'a[$(touch planted)]' >"$4"; exit 3"""
    assert job_ends(here, srun=planted)[0] == 3
    assert not (here / "planted").exists()


def test_restarts_are_bounded(here):
    assert AGAIN[0] in job_ends(here, CODE="71", SLURM_RESTART_COUNT="99")[1]
    code, log, done = job_ends(here, CODE="71", SLURM_RESTART_COUNT="100")
    assert (code, AGAIN[0] in log) == (71, False)
    assert b"submitted once more, it resumes" in done.stdout


def test_a_signal_for_a_rank_does_not_end_its_shell(here):
    """Slurm sends it to all processes of a rank; the rank itself saves, and the job has not failed."""
    shell = RANK.split("'")[1]
    rank = "import os, signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\n"
    rank += "os.killpg(0, signal.SIGUSR1); signal.pause()"
    done = subprocess.run(
        ["/bin/bash", "-c", shell, str(here / "ended"), sys.executable, "-c", rank],
        env={"PATH": "/usr/bin:/bin"},
        start_new_session=True,
        check=False,
    )
    assert done.returncode == 0
    assert (here / "ended").read_text() == "75\n"


def test_the_script_by_hand_does_the_same():
    text = (Path(__file__).parents[2] / "launch/slurm.sbatch").read_text()
    for part in (RANK, END, REQUEUE):
        assert part in text


def test_what_is_queued_again_is_what_may_be_retried():
    """Not ranks that do not find each other (69): mostly the job is wrong. Nobody presses Ctrl-C (130)."""
    codes = re.search(r"in ([0-9 |]+)\)", REQUEUE)[1].split(" | ")
    retried = {code.number for code in CODES if code.retry}
    assert set(map(int, codes)) == retried - {69, 130}


def test_a_job_is_submitted(run, here):
    stub(here, f'printf "%s\\n" "$PWD" "$@" > {here}/log', "echo '4711;cluster'")
    code, out, _ = run("c.yaml", "--nodes", "2")
    assert code == 0
    file = here / "runs/quick/slurm/train.sbatch"
    assert (here / "log").read_text().splitlines() == [str(here), "--parsable", str(file)]
    assert out.startswith("job 4711: quick on 2 node(s) x 2 rank(s)\n")
    assert f"{here}/runs/quick/slurm/4711.log" in out
    asked = directives(file.read_text())
    assert "gpus-per-node" not in asked
    shown = [sys.executable, "-m", "tttscale", "train", "c.yaml"]
    assert file.read_text().count(" ".join(shown) + " || code=$?\n") == 1
    subprocess.run(["/bin/bash", "-n", file], check=True)
    assert (asked["ntasks-per-node"], asked["cpus-per-task"]) == ("2", "1")


def test_a_cluster_without_sbatch_or_that_refuses_is_one_line(run, here):
    code, out, err = run("c.yaml", "--nodes", "2")
    assert (code, out) == (69, "")
    assert err.splitlines()[-1].startswith("error: no sbatch on the PATH")
    said = (
        "sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification"
    )
    stub(here, f'echo "{said}" >&2', "exit 1")
    code, _, err = run("c.yaml", "--nodes", "2", "--gpus-per-node", "2")
    assert code == 69
    assert "Invalid generic resource" in err
    assert "0 is for nodes without GPUs" in err
    stub(here, "echo welcome")
    assert run("c.yaml", "--nodes", "2")[0] == 69


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train.lrr=1"], "train.lrr is not a known key"),
        (["--ranks-per-node", "3"], "the job has 6 processes, which is not a multiple"),
        (["--gpus-per-node", "1", "--ranks-per-node", "2"], "every rank needs a GPU"),
        (["train.device=cuda"], "the job has no GPUs"),
        (["--partition", "a b"], "is not a partition's name"),
        (["--sbatch", "account=x y"], "is not an option of sbatch"),
        (["--sbatch", "nodes=9"], "the file sets this itself"),
        (["--time", "soon"], "is not a time of Slurm"),
        (["--time", "4"], "is 240 seconds, and the run would be told to save 300"),
        (["run.dir=a b"], "characters that sbatch reads in its own way"),
        (["run.dir=a%j"], "characters that sbatch reads in its own way"),
        (["data.store=s3://name:hidden1@host/x"], "a credential would be written"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_queue(run, here, words, says):
    stub(here, f"touch {here}/asked", "echo 1")
    code, out, err = run("c.yaml", "--nodes", "2", *words)
    assert (code, out) == (64, "")
    assert says in err
    assert "hidden1" not in err
    assert not (here / "asked").exists()


def test_a_store_that_is_here_and_does_not_fit_is_refused(run, here):
    (here / "stores/text").mkdir(parents=True)
    code, out, err = run("c.yaml", "--nodes", "2", "--dry-run")
    assert (code, out) == (65, "")
    assert "data.store = stores/text" in err


def test_a_run_of_this_name_is_refused(run, here):
    (here / "runs/quick").mkdir(parents=True)
    (here / "runs/quick/metrics.jsonl").write_text('{"step": 1}\n{"step": 20}\n')
    code, _, err = run("c.yaml", "checkpoint.every=0", "--nodes", "2", "--dry-run")
    assert code == 64
    assert "already holds a run" in err
