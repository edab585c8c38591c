"""Estimates beside measurements: peak memory, and with costs step times, of small models on this machine.

`python -m benchmarks.trust_memory [--costs FILE ...] [--only WORDS] [--skip-long] [--again]` writes
trust_memory.md and its data; settings that the data has already are not run again without `--again`. One
thread a rank. With `--costs` (of `tttscale bench step --calibrate`; several for several models) it also
estimates the steps' times; a setting takes the first file that fits its model.
"""

import argparse
import socket
from pathlib import Path
from typing import Any

from tttscale.bench import report
from tttscale.config.schema import Config
from tttscale.errors import ConfigError
from tttscale.plan.carries import Carries
from tttscale.plan.chosen_costs import chosen_costs
from tttscale.plan.memory import CPU_BASE_BYTES, Machine, MemoryPlan, memory_plan
from tttscale.plan.options import Model
from tttscale.plan.search import choice_of

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
    "3 layers of width 192, chunks of 1.5Ki": {
        "model.num_hidden_layers": 3,
        "model.hidden_size": 192,
        "model.num_attention_heads": 3,
        "parallel.chunk_length": 1536,
    },
    "30 M parameters": {
        "model.vocab_size": 8192,
        "model.hidden_size": 512,
        "model.intermediate_size": 1376,
        "model.num_hidden_layers": 8,
        "model.num_attention_heads": 8,
        "parallel.chunk_length": 512,
        "data.sequence_length": 2048,
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
    "all of 32Ki kept": {"data.sequence_length": 32768, "parallel.keep_chunks": 16},
    "2 ranks, all of 64Ki kept": {
        "data.sequence_length": 65536,
        "parallel.sequence": 2,
        "parallel.keep_chunks": 16,
    },
    "2 replicas, ZeRO 2": {"zero.stage": 2, "train.sequences_per_step": 2, "world": 2},
}
"""Changes by key of the quickstart's model on 16Ki random tokens; "world" is the number of ranks."""
NOT_FITTED = {"3 layers of width 192, chunks of 1.5Ki"}
"""Settings that no constant was chosen by; nor were the long ones."""
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


def planned(config: Config, world: int) -> MemoryPlan:
    """The estimate of a setting."""
    kept = config.parallel.keep_chunks
    assert kept != "auto"
    return memory_plan(config, world, Machine.of(config, gpu=False), Carries(config), kept)


def measured(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Run a setting."""
    config = config_of(changes)
    world = changes.get("world", config.parallel.sequence)
    results = _run(config, world, changes.get("steps", _STEPS), changes.get("tensors", True))
    row = {
        "setting": name,
        "ranks": world,
        "peak_bytes": max(r["peak_bytes"] for r in results),
        "tensors_bytes": max(r.get("tensors_bytes", 0) for r in results),
        "step_seconds": min(step["step_seconds"] for step in _later(results[0]["steps"])),
        "cpu_seconds": min(
            max(s["cpu_seconds"] for s in steps)
            for steps in zip(*(_later(r["steps"]) for r in results), strict=True)
        ),
    }
    report.emit(row)
    return row


def _later(steps: list[dict[str, float]]) -> list[dict[str, float]]:
    """The steps after the first, if there are any."""
    return steps[1:] or steps


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


def estimated_seconds(config: Config, world: int, files: list[Path]) -> float | None:
    """The step by the first costs that fit; None if none do."""
    kept = config.parallel.keep_chunks
    assert kept != "auto"
    for file in files:
        try:
            costs = chosen_costs("measured", file, config)
        except ConfigError:
            continue
        model = Model(config, costs, Machine.of(config, gpu=False), 1 << 62, None, world)
        return model.price(choice_of(config, kept), world).step_seconds
    return None


def _row(measured: dict[str, Any], files: list[Path]) -> dict[str, str]:
    name = measured["setting"]
    config = config_of((SETTINGS | LONG)[name])
    plan = planned(config, measured["ranks"])
    tensors, peak = measured["tensors_bytes"], measured["peak_bytes"]
    own = peak - CPU_BASE_BYTES
    seconds = estimated_seconds(config, measured["ranks"], files)
    return {
        "setting": f"{name} *" if name in NOT_FITTED | LONG.keys() else name,
        "tensors, MiB": f"{tensors / _MIB:.1f}" if tensors else "",
        "estimate / measured": f"{plan.tensors_peak / tensors:.3f}" if tensors else "",
        "resident, MiB": f"{peak / _MIB:.0f}",
        "estimate / measured ": f"{plan.peak / peak:.3f}",
        "without the base": f"{(plan.peak - plan.base) / own:.3f}",
        **_times(measured, seconds),
    }


def _times(measured: dict[str, Any], seconds: float | None) -> dict[str, str]:
    """Columns of time; empty where it was not measured."""
    row = {}
    for name, key in (("step", "step_seconds"), ("CPU", "cpu_seconds")):
        found = measured.get(key)
        row[f"{name}, s"] = "" if found is None else f"{found:.2f}"
        row[f"estimate / {name}"] = ""
        if found is not None and seconds is not None:
            row[f"estimate / {name}"] = f"{seconds / found:.3f}"
    return row


_NOTE = (
    "The quickstart's model (TTT-Linear, 1.1 M parameters, 4 layers, width 128) in fp32 on 16Ki tokens, "
    "chunks of 2Ki, 1 kept, ZeRO 1, one thread a rank, but for what a setting says. *tensors*: the most "
    "that all tensors took at once in a step, counted by torch's profiler without the reduction's "
    "buffer, of which a CPU's memory holds what is written only. *resident*: the largest resident set "
    f"(VmHWM) after {_STEPS} steps, of the rank that took most; 2 steps of the long ones. *base*: "
    f"{CPU_BASE_BYTES // _MIB} MiB for interpreter and libraries, measured once. Estimates are those of "
    "`tttscale plan`: tensors are sums of what the code allocates, and the resident set adds the holes "
    "of the C library's heap, a share found from these settings; those with * were not used for it. "
    "*CPU*: user and system time of the slower rank, where others kept the machine busy."
)


def main() -> None:
    """Measure what is not known, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--costs", type=Path, action="append", default=[])
    parser.add_argument("--only", default="")
    parser.add_argument("--skip-long", action="store_true")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    known: dict[str, Any] = {}
    if report.beside(OUT, ".json").is_file():
        known = {row["setting"]: row for row in report.read(OUT)[1]}
    for name, changes in (SETTINGS | ({} if options.skip_long else LONG)).items():
        if options.only in name and (options.again or name not in known):
            known[name] = measured(name, changes)
            write(list(known.values()), options.costs)  # as far as it has come
    write(list(known.values()), options.costs)


def write(found: list[dict[str, Any]], costs: list[Path]) -> None:
    """Write the page and its data."""
    order = list(SETTINGS | LONG)
    rows = sorted(found, key=lambda row: order.index(row["setting"]))
    text = report.table([_row(row, costs) for row in rows])
    report.write(
        OUT, "Estimates beside measurements", [("Result", text), ("What was measured", _NOTE)], rows
    )


if __name__ == "__main__":
    main()
