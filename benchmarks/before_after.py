"""A whole training step in two source trees, in turns in one run: CPU seconds, peak memory, losses.

    git worktree add /tmp/before COMMIT
    python benchmarks/before_after.py /tmp/before . --rounds 3

The optimizer and everything else of a step is in it; one thread, one rank, fp32. Each round starts a process
in each tree, which takes the fastest of its steps after the first. Prints a Markdown table.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

WORKER = r"""
import json, resource, sys, time
import numpy as np, torch
from tttscale.bench.step_worker import small_config
from tttscale.cluster.ranks import discover
from tttscale.config.schema import Config
from tttscale.data import ArraySplit, Windows
from tttscale.train import build
from tttscale.train.memory import tune_allocator
from tttscale.train.trainer import Trainer

tokens, chunk, keep, wide, steps = json.loads(sys.argv[1])
config = small_config(tokens, chunk, keep, steps, 1)
if wide:
    fields = config.model_dump()
    fields["model"] |= dict(vocab_size=32000, hidden_size=768, intermediate_size=2048,
                            num_hidden_layers=2, num_attention_heads=12)
    config = Config.model_validate(fields)
torch.set_num_threads(1)
tune_allocator()
device, ranks = torch.device("cpu"), discover({})
mesh = build.connect(config, ranks, device)
try:
    from tttscale.train import cpu_products
    cpu_products.choose(mesh)
except ImportError:  # the tree before
    pass
model = build.build_model(config, device)
sweeps = build.build_sweeps(config, model, mesh, sequences=1, batch=1,
                            keep=build.keep_policy(config, ranks, device))
trainer = Trainer(config, mesh, model, sweeps, build.build_engine(config, model, mesh))
text = np.random.default_rng(0).integers(0, 256, tokens + 1, dtype=np.uint16)
windows = Windows(ArraySplit([text]), tokens, 0, 16)
seconds, losses = [], []
for step in range(1, steps + 1):
    began = time.process_time()
    losses.append(trainer.step(step, windows)["loss"])
    seconds.append(time.process_time() - began)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
mesh.close()
print(json.dumps({"seconds": min(seconds[1:]), "loss": losses[0], "peak_mib": peak}))
"""
CASES = {  # tokens, tokens of a chunk, keep_chunks, width 768 with 32,000 ids, steps
    "quickstart's width, keep 1": (8192, 2048, 1, False, 4),
    "quickstart's width, keep auto": (8192, 2048, "auto", False, 4),
    "width 768, 32k ids, keep 1": (4096, 2048, 1, True, 3),
}


def measure(tree: Path, case: tuple[object, ...]) -> dict[str, float]:
    """One process in one tree."""
    env = {**os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, json.dumps(case)]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure all cases, the trees in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    print("| step | before, CPU s | after, CPU s | gain | loss before | after | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, case in CASES.items():
        found: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
        for _ in range(asked.rounds):
            for which, tree in (("before", asked.before), ("after", asked.after)):
                found[which].append(measure(tree, case))
        best = {which: min(r["seconds"] for r in rows) for which, rows in found.items()}
        (b, *_), (a, *_) = found["before"], found["after"]
        every = "; ".join(
            " ".join(f"{r['seconds']:.2f}" for r in found[w]) for w in ("before", "after")
        )
        print(
            f"| {name} | {best['before']:.2f} | {best['after']:.2f} | "
            f"{best['before'] / best['after']:.2f}x ({every}) | {b['loss']:.9f} | {a['loss']:.9f} | "
            f"{b['peak_mib']:.0f} -> {a['peak_mib']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
