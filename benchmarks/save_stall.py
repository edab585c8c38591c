"""How long a step is held up by a checkpoint: written in the step, beside it, and not at all, in turns.

    python benchmarks/save_stall.py --ranks 1 2 --out benchmarks/save_stall

Ranks are processes of this machine, one thread each. Every round has the three kinds in another order; each
makes a step, saves after it, and makes the next steps, while a checkpoint in the background is being written.
What holds a step up and what slows the next ones down are told apart.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

NONE, IN_STEP, BESIDE = "no checkpoint", "in the step", "in the background"
KINDS = (NONE, IN_STEP, BESIDE)
TITLE = "How long a checkpoint holds a step up"
TOKENS = 128
FOLLOWING = 2
"""Steps after a save that are timed."""
LIMIT_SECONDS = 1200


def configuration(ranks: int, stage: int) -> dict[str, Any]:
    """A model of 124 M parameters; its steps are short, so that saves are long beside them."""
    return {
        "run": {"name": "stall"},
        "model": {
            "vocab_size": 32000,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "share_qk": True,
            "use_gate": True,
            "pre_conv": True,
        },
        "data": {"store": "none", "sequence_length": TOKENS},
        "parallel": {"sequence": ranks, "chunk_length": TOKENS // 2},
        "train": {"steps": 10**6, "precision": "fp32", "warmup_steps": 2, "device": "cpu"},
        "zero": {"stage": stage},
        "checkpoint": {"every": 10**6, "keep": 1},
    }


def worker(rank: int, ranks: int, rounds: int, stage: int, folder: Path) -> None:
    """Run the steps of one rank; rank 0 prints what was measured."""
    import numpy as np
    import torch

    from tttscale.cluster.ranks import Ranks
    from tttscale.config.schema import Config
    from tttscale.data import ArraySplit, Windows
    from tttscale.data.windows.mixture import Mixture
    from tttscale.train import build
    from tttscale.train.checkpoint.manager import CheckpointManager
    from tttscale.train.checkpoint.snapshot import TrainingState
    from tttscale.train.memory import tune_allocator
    from tttscale.train.trainer import Trainer

    torch.set_num_threads(1)
    tune_allocator()
    config = Config.model_validate(configuration(ranks, stage))
    port = int(os.environ["MASTER_PORT"])
    us = Ranks(rank, ranks, rank, ranks, "127.0.0.1", port, "environment")
    device = torch.device("cpu")
    mesh = build.connect(config, us, device)
    model = build.build_model(config, device)
    keep = build.keep_policy(config, us, device)
    sweeps = build.build_sweeps(config, model, mesh, sequences=1, batch=1, keep=keep)
    trainer = Trainer(config, mesh, model, sweeps, build.build_engine(config, model, mesh))
    text = np.random.default_rng(0).integers(0, 32000, 8 * TOKENS + 1, dtype=np.uint16)
    windows = Windows(ArraySplit([text]), TOKENS, 0, 16)
    checkpoints = CheckpointManager(config, mesh, folder, ranks)
    stores = Mixture((), None, None)  # type: ignore[arg-type]
    step, rows = 0, []

    def steps(count: int) -> list[float]:
        """Run steps; their seconds."""
        nonlocal step
        seconds = []
        for _ in range(count):
            step += 1
            seconds.append(trainer.step(step, windows)["step_seconds"])
        return seconds

    def longest(seconds: float) -> float:
        """The most that any rank took."""
        return float(mesh.gather([seconds]).max())

    steps(1)
    # As a run does after its first step.
    checkpoints.make_room(TrainingState(step, trainer.tokens, model, trainer._engine, stores, None))
    steps(1)
    for number in range(rounds + 1):  # the first one is not in the medians
        for kind in KINDS[number % 3 :] + KINDS[: number % 3]:
            steps(1)
            state = TrainingState(step, trainer.tokens, model, trainer._engine, stores, None)
            mesh.gather([0.0])
            began, ended = time.perf_counter(), list[float]()
            if kind == IN_STEP:
                assert checkpoints.save(state).done
            elif kind == BESIDE:
                assert checkpoints.begin(state) is None
                assert checkpoints._under_way is not None
                future = checkpoints._under_way.future
                future.add_done_callback(lambda _, ended=ended: ended.append(time.perf_counter()))
            held = longest(time.perf_counter() - began)
            following = steps(FOLLOWING)
            waited = time.perf_counter()
            saved = checkpoints.settle()
            waited = longest(time.perf_counter() - waited)
            assert saved is None or saved.done, saved
            written = longest(ended[0] - began if ended else held)
            row = {"round": number, "kind": kind, "held_seconds": held, "written_seconds": written}
            rows.append(row | {"following_seconds": following, "waited_seconds": waited})
    if rank == 0:
        parameters = sum(p.numel() for p in model.parameters())
        print(json.dumps({"parameters": parameters, "rows": rows}), flush=True)
    mesh.close()


def measured(ranks: int, rounds: int, stage: int, folder: Path) -> dict[str, Any]:
    """Run all ranks of one job; return what rank 0 printed."""
    from tttscale.bench.report import row_of

    words = [sys.executable, __file__, "--rounds", str(rounds), "--stage", str(stage)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(_free_port())}
    processes = [
        subprocess.Popen(
            [*words, "--folder", str(folder), "--ranks", str(ranks), "--worker", str(rank)],
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=LIMIT_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    rows = [row for row in map(row_of, outputs[0].splitlines()) if row is not None]
    return {"ranks": ranks, "stage": stage, "load": os.getloadavg()[1], **rows[-1]}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def table(found: dict[str, Any]) -> list[dict[str, str]]:
    """A row for each kind: medians over all rounds but the first."""
    rows = [row for row in found["rows"] if row["round"] > 0]
    first = next(row for row in found["rows"] if row["round"] == 0 and row["kind"] == BESIDE)

    def median(kind: str, key: str) -> float:
        """Over the rounds."""
        return statistics.median(row[key] for row in rows if row["kind"] == kind)

    def following(kind: str) -> list[float]:
        """Seconds of the steps after, medians over the rounds."""
        each = [row["following_seconds"] for row in rows if row["kind"] == kind]
        return [statistics.median(column) for column in zip(*each, strict=True)]

    plain, told = following(NONE), []
    for kind in KINDS:
        slower = [one - other for one, other in zip(following(kind), plain, strict=True)]
        held = median(kind, "held_seconds")
        told.append(
            {
                "checkpoint": kind,
                "step held up, s": "" if kind == NONE else f"{held:.3f}",
                "of that in the step": ""
                if kind == NONE
                else f"{held / median(IN_STEP, 'held_seconds'):.3f}",
                "first time, s": f"{first['held_seconds']:.3f}" if kind == BESIDE else "",
                "written after, s": ""
                if kind == NONE
                else f"{median(kind, 'written_seconds'):.2f}",
                "next steps, s": ", ".join(f"{s:.2f}" for s in following(kind)),
                "slower by, s": "" if kind == NONE else ", ".join(f"{s:+.2f}" for s in slower),
                "cost in all, s": "" if kind == NONE else f"{held + sum(slower):.2f}",
            }
        )
    return told


def sections(results: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Headings and texts of the page."""
    from tttscale.bench import report

    found = []
    for result in results:
        millions = result["parameters"] / 1e6
        heading = f"{result['ranks']} rank(s), {millions:.0f} M parameters"
        busy = f"Load average of the machine at the end: {result['load']:.1f}."
        found.append((heading, f"{report.table(table(result))}\n\n{busy}"))
    rounds = max(row["round"] for row in results[0]["rows"])
    explained = (
        f"Medians of {rounds} round(s) after one that makes room; in every round the kinds come in another "
        "order, in the same process. *Held up* is the time in which the slowest rank's step thread saves; in "
        "the background that is the copy into the host's memory, whose pages are made ready "
        f"after the run's first step. The next {FOLLOWING} steps run while the background thread checks, "
        "writes, hashes and syncs, at a lower priority; each rank has one thread for its steps, and all "
        "ranks share this machine's cores, so that writing takes time from computing where no core is free: "
        "*slower by* compares with the steps after no checkpoint, and *cost in all* is what a save takes "
        "from the run in sum. On GPUs the cores of the host are mostly free. Steps are short on purpose "
        f"({TOKENS} tokens). ZeRO stage {results[0]['stage']}. With other programs on the machine the times "
        "of steps, and what a save adds to them, are mostly theirs: compare how long a step is held up."
    )
    return [*found, ("How", explained)]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/save_stall"))
    parser.add_argument("--folder", type=Path, help="Where checkpoints are written.")
    parser.add_argument("--worker", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker >= 0:
        worker(options.worker, options.ranks[0], options.rounds, options.stage, options.folder)
        return
    from tttscale.bench import report

    results = []
    for ranks in options.ranks:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            results.append(measured(ranks, options.rounds, options.stage, Path(name)))
        words = f"--ranks {' '.join(map(str, options.ranks))} --rounds {options.rounds}"
        command = f"python benchmarks/save_stall.py {words} --stage {options.stage}"
        report.write(options.out, TITLE, sections(results), results, command)
        print(sections(results[-1:])[0][1], flush=True)


if __name__ == "__main__":
    main()
