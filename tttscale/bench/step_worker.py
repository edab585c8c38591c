"""One rank of a measured optimizer step, in a process of its own; the launcher's variables say which.

Run as `python -m tttscale.bench.step_worker TOKENS CHUNK KEEP STEPS`. Prints one JSON object.
"""

import json
import os
import sys
import time

import numpy as np
import torch

from tttscale.cluster import join
from tttscale.config.schema import Config
from tttscale.data import ArraySplit, Windows
from tttscale.scan.carry_store import boundary_bytes
from tttscale.train import build, cpu_products
from tttscale.train.memory import peak_bytes, tune_allocator
from tttscale.train.trainer import Trainer


def small_config(tokens: int, chunk: int, keep: str, steps: int, ranks: int) -> Config:
    """The quickstart's model on one sequence."""
    return Config.model_validate(
        {
            "run": {"name": "bench"},
            "model": {
                "vocab_size": 259,
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "share_qk": True,
                "use_gate": True,
                "pre_conv": True,
            },
            "data": {"store": "random", "sequence_length": tokens},
            "parallel": {
                "sequence": ranks,
                "chunk_length": chunk,
                "keep_chunks": keep,
                "threads": 1,
            },
            "train": {"steps": steps, "precision": "fp32"},
        }
    )


def main(tokens: int, chunk: int, keep: str, steps: int) -> None:
    """Run the steps and print what the last one took."""
    ranks = join(os.environ)
    config = small_config(tokens, chunk, keep, steps, ranks.world_size)
    torch.set_num_threads(1)
    tune_allocator()
    device = torch.device("cpu")
    mesh = build.connect(config, ranks, device)
    cpu_products.choose(mesh)
    model = build.build_model(config, device)
    policy = build.keep_policy(config, ranks, device)
    sweeps = build.build_sweeps(config, model, mesh, sequences=1, batch=1, keep=policy)
    trainer = Trainer(config, mesh, model, sweeps, build.build_engine(config, model, mesh))
    text = np.random.default_rng(0).integers(0, 256, tokens + 1, dtype=np.uint16)
    windows = Windows(ArraySplit([text]), tokens, 0, 16)
    records = []
    for step in range(1, steps + 1):
        began = time.perf_counter()
        record = trainer.step(step, windows)
        records.append({**record, "wall_seconds": time.perf_counter() - began})
    last = min(records, key=lambda r: r["step_seconds"])
    layout = sweeps.schedule.layout
    result = {
        "tokens": tokens,
        "loss": records[0]["loss"],
        "step_seconds": last["step_seconds"],
        "bubble_fraction": last["bubble_fraction"],
        "kept_chunks": policy.chunks,
        "peak_bytes": peak_bytes(device),
        "carry_bytes": sum(boundary_bytes(sweeps.carry, b) for b in range(layout.chunks - 1)),
    }
    mesh.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
