"""Training runs killed at random moments and started again until they are done: the same to the last bit.

    python -m tests.campaigns.killed_runs --out benchmarks/killed_runs

Ground truth is a run of the same configuration that nobody disturbed. An episode in which no kill found the
run alive counts as a failure of the campaign.
"""

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.ranks import free_port
from tttscale.bench import report
from tttscale.data import build_store
from tttscale.observe import read_metrics

STEPS = 24
ATTEMPTS = 12
EXACT = ("step", "loss", "grad_norm", "lr", "tokens")
LIMIT_SECONDS = 120.0
NOTICE_SECONDS = 30.0
"""So long a rank may take to notice that another is gone."""


class Way(NamedTuple):
    """How a run is split."""

    ranks: int
    stage: int


WAYS = (Way(1, 1), Way(2, 0), Way(2, 1), Way(2, 2), Way(2, 3))


class Result(NamedTuple):
    way: Way
    passed: bool
    kills: int
    """That found the run alive."""
    places: list[str]
    """What the run was doing when it was killed."""
    why: str


def configuration(folder: Path) -> dict[str, Any]:
    """A model whose checkpoint (9 MB, after every step) takes about as long as its step."""
    return {
        "run": {"name": "run", "dir": str(folder / "runs")},
        "model": {
            "vocab_size": 259,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "share_qk": True,
            "use_gate": True,
            "pre_conv": True,
        },
        "data": {"store": str(folder / "store"), "sequence_length": 256},
        "parallel": {"chunk_length": 64},
        "train": {"steps": STEPS, "precision": "fp32", "lr": 1e-3, "warmup_steps": 2},
        "evaluate": {"sequences": 0},
        "checkpoint": {"every": 1, "keep": 2},
        "logging": {"wandb": {"mode": "disabled"}},
    }


def start(folder: Path, name: str, way: Way) -> list[subprocess.Popen[bytes]]:
    """All ranks of a run, each a process of ours, without a launcher that would end the others."""
    command = [
        sys.executable,
        "-m",
        "tttscale",
        "train",
        str(folder / "run.yaml"),
        f"run.name={name}",
    ]
    command += [f"parallel.sequence={way.ranks}", f"zero.stage={way.stage}"]
    port, log = free_port(), (folder / f"{name}.log").open("ab")
    place = {"WORLD_SIZE": way.ranks, "LOCAL_WORLD_SIZE": way.ranks, "MASTER_PORT": port}
    return [
        subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                **{key: str(value) for key, value in place.items()},
                **{"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(way.ranks)
    ]


def end(processes: list[subprocess.Popen[bytes]], seconds: float) -> bool:
    """Whether all ended by themselves within the time; they have ended then in any case."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(process.poll() is not None for process in processes):
            return True
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.wait()
    return False


def await_moment(
    processes: list[subprocess.Popen[bytes]], metrics: Path, chooser: random.Random
) -> bool:
    """Sleep until a random moment of the run; False if it ended before."""
    alive = lambda: all(process.poll() is None for process in processes)  # noqa: E731
    if chooser.random() < 0.2:  # while it starts
        time.sleep(chooser.uniform(0, 4))
        return alive()
    done = steps_in(metrics)
    goal = chooser.randint(min(done + 1, STEPS), STEPS)
    deadline = time.monotonic() + LIMIT_SECONDS
    while alive() and steps_in(metrics) < goal and time.monotonic() < deadline:
        time.sleep(0.003)
    time.sleep(chooser.uniform(0, 0.15))  # about a step and a checkpoint
    return alive()


def steps_in(metrics: Path) -> int:
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def place_of(folder: Path, name: str, began: float, said: str) -> str:
    """What a run was doing when it was killed, as its folder tells, and what rank 0 said since `began`."""
    run = folder / "runs" / name
    if " parameters, " not in said:
        return "starting"
    if (run / "final").exists():
        return "writing final weights"
    for partial in (run / "checkpoints").glob("*.partial"):
        with suppress(FileNotFoundError):
            if partial.stat().st_mtime > began:  # not one that an earlier kill has left
                return "writing a checkpoint"
    return "in a step"


def outcome(folder: Path, name: str) -> tuple[list[tuple[Any, ...]], bytes]:
    run = folder / "runs" / name
    records = read_metrics(run / "metrics.jsonl")
    exact = [tuple(record[key] for key in EXACT) for record in records]
    return exact, (run / "final" / "model.safetensors").read_bytes()


def episode(folder: Path, name: str, way: Way, chooser: random.Random) -> Result:
    """Kill, start again, until a run comes to its end; compare with `truth-*`."""
    kills, places = 0, []

    def result(why: str) -> Result:
        return Result(way, not why, kills, places, why)

    metrics = folder / "runs" / name / "metrics.jsonl"
    for attempt in range(ATTEMPTS):
        began, log = time.time(), folder / f"{name}.log"
        before = log.stat().st_size if log.exists() else 0
        processes = start(folder, name, way)
        last = attempt == ATTEMPTS - 1 or (kills > 0 and chooser.random() < 0.3)
        if not last and await_moment(processes, metrics, chooser):
            said = log.read_bytes()[before:].decode(errors="replace")
            place = place_of(folder, name, began, said)
            victims = processes if chooser.random() < 0.5 else [chooser.choice(processes)]
            for victim in victims:
                victim.send_signal(signal.SIGKILL)
            kills += 1
            places.append(place)
            # Ranks that have not met yet wait for each other; ending them is a launcher's work.
            if not end(processes, NOTICE_SECONDS) and place != "starting":
                return result("a rank outlived another's death")
        elif not end(processes, LIMIT_SECONDS):
            return result("the run hangs")
        if (folder / "runs" / name / "final" / "model.safetensors").exists():
            break
        if last:
            return result(f"started again, it ended with {[p.returncode for p in processes]}")
    expected, found = (outcome(folder, n) for n in (f"truth-{way.ranks}-{way.stage}", name))
    if found[0] != expected[0]:
        return result("other metrics")
    if found[1] != expected[1]:
        return result("other weights")
    return result("" if kills else "it was never killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/killed_runs"))
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chooser, results = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
        build_store(folder / "store", [str(folder / "text.txt")])
        (folder / "run.yaml").write_text(yaml.safe_dump(configuration(folder)))
        for way in WAYS:
            processes = start(folder, f"truth-{way.ranks}-{way.stage}", way)
            assert end(processes, LIMIT_SECONDS), "the undisturbed run hangs"
            assert all(process.returncode == 0 for process in processes)
        for number in range(options.episodes):
            way = WAYS[number % len(WAYS)]
            result = episode(folder, f"episode-{number}", way, chooser)
            results.append(result)
            print(number, result, flush=True)
            if not result.passed:
                print((folder / f"episode-{number}.log").read_text()[-3000:], flush=True)
    write(options.out, results, options.seed)
    sys.exit(any(not result.passed for result in results))


def write(out: Path, results: list[Result], seed: int) -> None:
    rows = []
    for way in WAYS:
        mine = [result for result in results if result.way == way]
        if mine:
            places = Counter(place for result in mine for place in result.places)
            rows.append(
                {
                    "ranks": way.ranks,
                    "ZeRO": way.stage,
                    "same to the last bit": f"{sum(r.passed for r in mine)} of {len(mine)}",
                    "kills": sum(result.kills for result in mine),
                    "killed while": ", ".join(f"{p}: {n}" for p, n in places.most_common()),
                }
            )
    explained = (
        f"A run of {STEPS} steps with a checkpoint after each is killed (SIGKILL, all ranks or one of "
        "them) at random moments, and started again by the same command until it is done. Then loss, "
        "gradient norm, learning rate and tokens of all steps in metrics.jsonl, and the bytes of the final "
        "weights, are compared with those of a run that was not disturbed. Ranks whose peer was killed have "
        f"to end by themselves within {NOTICE_SECONDS:.0f} s, once they have met. What a run was doing is "
        f"told from its folder. Seed {seed}."
    )
    said = shlex.join(["python", "-m", "tests.campaigns.killed_runs", *sys.argv[1:]])
    sections = [("Result", report.table(rows)), ("How", explained)]
    data = [result._asdict() for result in results]
    report.write(out, "Training runs killed and started again", sections, data, command=said)
    print(report.table(rows))


if __name__ == "__main__":
    main()
