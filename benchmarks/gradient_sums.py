"""Sums of gradients under the last backward wave: steps of three kinds in turns, in one run.

    python benchmarks/gradient_sums.py --ranks 2 --mbit 400
    python benchmarks/gradient_sums.py --ranks 4 --mbit 800

Ranks are processes of this machine, one thread each, in a network namespace of their own whose loopback is
slowed to `--mbit` for all ranks together (Linux, root). The kinds: DeepSpeed's own reduction after the sweep;
this project's, but begun after the sweep (with ZeRO 1 and 2 it sends less); and begun under it. The
order of the kinds changes from round to round. Prints a Markdown table of medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

KINDS = ("DeepSpeed's, after the sweep", "own, after the sweep", "own, under the last wave")


class Stopwatch:
    """Adds up the time for which it runs."""

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, 0.0

    def run(self, runs: bool) -> None:
        """Run or stand still from now on."""
        now = time.perf_counter()
        if self._since:
            self.seconds += now - self._since
        self._since = now if runs else 0.0


def worker(rank: int, ranks: int, rounds: int, stage: int, chunks: int, folder: Path) -> None:
    """Run the steps of one rank; rank 0 writes the seconds."""
    import numpy as np
    import torch

    from tttscale.bench.step_worker import small_config
    from tttscale.cluster.ranks import Ranks
    from tttscale.config.schema import Config
    from tttscale.data import ArraySplit, Windows
    from tttscale.scan.timeline import Activity
    from tttscale.train import build
    from tttscale.train.trainer import Trainer

    torch.set_num_threads(1)
    chunk, tokens = 512, 512 * chunks
    fields = small_config(tokens, chunk, "1", 1 + 3 * rounds, ranks).model_dump()
    fields["model"] |= {
        "vocab_size": 512,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    }
    fields["zero"]["stage"] = stage
    config = Config.model_validate(fields)
    us = Ranks(rank, ranks, rank, ranks, "127.0.0.1", 29500, "environment")
    device = torch.device("cpu")
    mesh = build.connect(config, us, device)
    model = build.build_model(config, device)
    keep = build.keep_policy(config, us, device)
    sweeps = build.build_sweeps(config, model, mesh, sequences=1, batch=1, keep=keep)
    engine = build.build_engine(config, model, mesh)
    trainer = Trainer(config, mesh, model, sweeps, engine)
    text = np.random.default_rng(0).integers(0, 256, tokens + 1, dtype=np.uint16)
    windows = Windows(ArraySplit([text]), tokens, 0, 16)
    final = sweeps.final_gradients
    begin = final.sink
    assert begin is not None

    def late(group: int, begin: Callable[[int], None] = begin) -> None:
        if group == len(final.groups) - 1:
            for i in range(len(final.groups)):
                begin(i)

    reducing, plain = Stopwatch(), engine._begin

    def noted(activity: Activity) -> None:
        plain(activity)
        reducing.run(activity is Activity.REDUCE)

    engine._begin = noted
    sinks = dict(zip(KINDS, (None, late, begin), strict=True))
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    exposed: dict[str, list[float]] = {kind: [] for kind in KINDS}
    trainer.step(1, windows)
    for i in range(3 * rounds):
        kind = KINDS[(i + i // 3) % 3]
        final.sink = sinks[kind]
        reducing.seconds = 0.0
        seconds[kind].append(trainer.step(2 + i, windows)["step_seconds"])
        exposed[kind].append(reducing.seconds)
    if rank == 0:
        size = 4 * sum(p.numel() for p in model.parameters())
        (folder / "found.json").write_text(
            json.dumps({"seconds": seconds, "exposed": exposed, "bytes": size})
        )
    mesh.close()


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--mbit", type=int, default=400, help="0: as fast as it is")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/gradient_sums"))
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank is not None:
        rest = asked.rounds, asked.stage, asked.chunks, asked.folder
        worker(asked.rank, asked.ranks, *rest)
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    mine = [sys.executable, *sys.argv, "--folder", str(asked.folder), "--rank"]
    lines = [f"{' '.join(map(str, mine))} {rank} &" for rank in range(asked.ranks)]
    # A short queue: carries share the link with the sums.
    slow = f"tc qdisc add dev lo root tbf rate {asked.mbit}mbit burst 256kb latency 20ms;"
    script = f"ip link set lo up; {slow if asked.mbit else ''} {' '.join(lines)} wait"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(["unshare", "-n", "sh", "-ec", script], env=env, check=True)
    found = json.loads((asked.folder / "found.json").read_text())
    first = statistics.median(found["seconds"][KINDS[0]])
    print(
        f"{asked.ranks} ranks, ZeRO {asked.stage}, {found['bytes'] / 1e6:.0f} MB of gradients, "
        f"{asked.mbit} Mbit/s, {asked.chunks} chunks\n\n"
        "| reduction | step, s (median) | ratio | exposed, s (median) | all steps |\n|---|---|---|---|---|"
    )
    for kind, seconds in found["seconds"].items():
        every = " ".join(f"{s:.2f}" for s in seconds)
        median = statistics.median(seconds)
        shown = statistics.median(found["exposed"][kind])
        print(f"| {kind} | {median:.2f} | {median / first:.3f} | {shown:.2f} | {every} |")


if __name__ == "__main__":
    main()
