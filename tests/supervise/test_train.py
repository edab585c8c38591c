"""`tttscale train` under its supervisors: alone, and as several ranks that a launcher has started."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from tests.ranks import free_port
from tests.supervise.ranks import is_running, until
from tests.warm import Command, _place
from tttscale.data import build_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervised")
    text = folder / "text.txt"
    text.write_text("the quick brown fox. " * 60)
    build_store(folder / "store", [str(text)])
    config = {
        "run": {"dir": str(folder / "runs")},
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


class Job:
    """All ranks of a run."""

    def __init__(self, folder, name, ranks=1, before=None, *overrides):
        self.run, port = folder / "runs" / name, str(free_port())
        words = ["train", folder / "run.yaml", f"run.name={name}", f"parallel.sequence={ranks}"]
        self.ranks = [
            Command(
                [*words, *overrides],
                {} if ranks == 1 else _place(rank, ranks, port),
                (before or {}).get(rank, ""),
            )
            for rank in range(ranks)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for rank in self.ranks:
            rank.kill()

    def child(self, rank):
        """The process that trains, once it has done two steps."""
        metrics, pid = self.run / "metrics.jsonl", self.ranks[rank].pid
        until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, self.ranks[0], 240)
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def ends(self):
        """Code and stderr of every rank."""
        return [(done.returncode, done.stderr) for done in (r.wait(120) for r in self.ranks)]

    def failure(self):
        return json.loads((self.run / "failure.json").read_text())


def failed(said):
    (line,) = [line for line in said.splitlines() if line.startswith("FAILED ")]
    return line


def test_all_ranks_name_the_one_that_was_killed(folder):
    with Job(folder, "killed", 2) as job:
        children = [job.child(0), job.child(1)]
        os.kill(children[1], signal.SIGKILL)
        (first, said), (second, other) = job.ends()
    assert first == second == 71
    assert failed(said) == failed(other)
    assert failed(said).startswith("FAILED rank=1 host=")
    assert " cause=killed by SIGKILL" in failed(said)
    assert not any(map(is_running, children))
    assert (job.failure()["rank"], job.failure()["exit_code"]) == (1, 71)
    assert "error: " not in said + other  # what the others noticed is no news


BROKEN = """
from tttscale.train.trainer import Trainer
step = Trainer.step
def broken(self, number, windows):
    if number == 3:
        raise {error}
    return step(self, number, windows)
Trainer.step = broken
"""


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [
        ("ZeroDivisionError('by nothing')", 70, "ZeroDivisionError: by nothing"),
        ("MemoryError()", 70, "MemoryError"),
        ("OSError(28, 'No space left')", 74, "OSError: [Errno 28] No space left"),
    ],
    ids=["bug", "memory", "disk"],
)
def test_an_error_that_is_not_foreseen(folder, error, code, cause):
    name = f"broken-{code}-{error[0]}"
    with Job(folder, name, 1, {0: BROKEN.format(error=error)}) as job:
        ((found, said),) = job.ends()
    assert found == code
    assert "Traceback (most recent call last):" in said
    assert failed(said).endswith(f"phase=step step=3 cause={cause}")
    assert (job.failure()["exit_code"], job.failure()["cause"]) == (code, cause)


def test_an_error_of_one_rank_is_that_of_all(folder):
    with Job(folder, "one", 2, {1: BROKEN.format(error="ValueError('x')")}) as job:
        (first, said), (second, other) = job.ends()
    assert (first, second) == (70, 70)
    assert failed(said) == failed(other)
    assert " rank=1 " in failed(said)
    assert failed(said).endswith("phase=step step=3 cause=ValueError: x")
    assert "Traceback" in other
    assert "Traceback" not in said


FULL = """
from tttscale.observe.metrics import MetricsLog
def full(self, record):
    raise OSError(28, "No space left on device")
MetricsLog.write = full
"""


def test_a_disk_that_is_full_is_one_message(folder):
    with Job(folder, "full", 1, {0: FULL}) as job:
        ((code, said),) = job.ends()
    assert code == 74
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    assert "error: run.dir = " in said
    assert failed(said).count("No space left on device") == 1


NOTED = """
import os
from tttscale.observe.console import Console
os.environ["TTTSCALE_SUPERVISOR"] = "{switch}"
close = Console.close
def noted(self):
    print("rank", os.getpid(), flush=True)
    close(self)
Console.close = noted
"""


@pytest.mark.parametrize(("switch", "is_forked"), [("off", False), ("", True)])
def test_the_supervisor_can_be_switched_off(folder, switch, is_forked):
    name = f"forked-{is_forked}"
    with Job(folder, name, 1, {0: NOTED.format(switch=switch)}, "train.steps=2") as job:
        ((code, said),) = job.ends()
        (line,) = [x for x in job.ranks[0].said()[0].splitlines() if x.startswith("rank ")]
        assert (int(line.split()[1]) != job.ranks[0].pid) == is_forked
    assert (code, said) == (0, "")
