"""Estimates beside measurements: peak memory, and with costs step times, of small models on this machine.

`python -m benchmarks.trust_memory [--costs FILE] [--long]` writes trust_memory.md and its data. One thread a
rank. With `--costs` (of `tttscale bench step --calibrate`) it also estimates the steps' times.
"""

import argparse
import socket
from pathlib import Path
from typing import Any

from tttscale.bench import report
from tttscale.config.schema import Config
from tttscale.plan.carries import Carries
from tttscale.plan.memory import Machine, memory_plan

OUT = Path(__file__).parent / "trust_memory"
_MIB, _STEPS = 2**20, 3

SETTINGS: dict[str, dict[str, Any]] = {
    "chunks of 2Ki": {},
    "chunks of 1Ki": {"parallel.chunk_length": 1024},
    "chunks of 4Ki": {"parallel.chunk_length": 4096},
    "2 kept chunks": {"parallel.keep_chunks": 2},
    "all kept": {"parallel.keep_chunks": 8},
    "contiguous": {"parallel.layout": "contiguous"},
    "2 sequences": {"train.sequences_per_step": 2},
    "2 sequences side by side": {"train.sequences_per_step": 2, "parallel.batch": 2},
    "bf16": {"train.precision": "bf16"},
    "TTT-MLP": {"model.ttt_layer_type": "mlp", "model.ttt_base_lr": 0.1},
    "TTT-MLP, contiguous": {
        "model.ttt_layer_type": "mlp",
        "model.ttt_base_lr": 0.1,
        "parallel.layout": "contiguous",
    },
    "width 256": {"model.hidden_size": 256, "model.num_attention_heads": 4},
    "transformer backbone": {
        "model.share_qk": False,
        "model.use_gate": False,
        "model.pre_conv": False,
    },
    "2 ranks": {"parallel.sequence": 2},
    "2 ranks, contiguous": {"parallel.sequence": 2, "parallel.layout": "contiguous"},
    "2 ranks, 2 sequences": {"parallel.sequence": 2, "train.sequences_per_step": 2},
    "2 ranks, TTT-MLP": {
        "parallel.sequence": 2,
        "model.ttt_layer_type": "mlp",
        "model.ttt_base_lr": 0.1,
    },
    "2 ranks, all kept": {"parallel.sequence": 2, "parallel.keep_chunks": 8},
    "2 replicas, ZeRO 2": {"zero.stage": 2, "train.sequences_per_step": 2, "world": 2},
}
LONG = {
    f"{tokens // 1024}Ki tokens": {"data.sequence_length": tokens, "tensors": False, "steps": 2}
    for tokens in (2**16, 2**18, 2**20)
}


def config_of(changes: dict[str, Any]) -> Config:
    """The quickstart's model on 16Ki random tokens, with changes by key."""
    sections: dict[str, Any] = {
        "run": {"name": "trust"},
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
        "data": {"store": "random", "sequence_length": 16384},
        "parallel": {"chunk_length": 2048, "keep_chunks": 1, "threads": 1},
        "train": {"steps": 8, "precision": "fp32"},
    }
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name:
            sections.setdefault(section, {})[name] = value
    return Config.model_validate(sections)


def measured(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Estimate a setting, then run it."""
    config = config_of(changes)
    world = changes.get("world", config.parallel.sequence)
    kept = config.parallel.keep_chunks
    assert isinstance(kept, int)
    plan = memory_plan(config, world, Machine.of(config, gpu=False), Carries(config), kept)
    results = _run(config, world, changes.get("steps", _STEPS), changes.get("tensors", True))
    row = {
        "setting": name,
        "ranks": world,
        "config": config.model_dump(mode="json"),
        "plan": plan.json(),
        "peak_bytes": max(r["peak_bytes"] for r in results),
        "tensors_bytes": max(r.get("tensors_bytes", 0) for r in results),
        "steps": results[0]["steps"],
    }
    report.emit(
        {key: row[key] for key in ("setting", "peak_bytes", "tensors_bytes")}
        | {"plan": plan.json()}
    )
    return row


def _run(config: Config, world: int, steps: int, tensors: bool) -> list[dict[str, Any]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    workers = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
        arguments = config.model_dump_json(), str(steps), str(int(tensors))
        env = {**common, **place, "OMP_NUM_THREADS": "1"}
        workers.append(report.start_worker("benchmarks.trust_worker", *arguments, env=env))
    return report.collect(workers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    for name, changes in (SETTINGS | LONG).items():
        if parser.parse_known_args()[0].only in name:
            measured(name, changes)
