"""`tttscale bench kernels`: what every Triton kernel needs, compiled for a GPU that need not be there."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tttscale.bench import report

_MAIN = [(64, 16, "bf16")]
_ALL = [
    *((dim, size, "bf16") for dim in (16, 32, 64, 96, 128) for size in (16, 32, 64)),
    *((dim, 16, "fp32") for dim in (16, 32, 64, 96, 128)),
]


def bench_kernels(out: Path, capability: int, everything: bool) -> str:
    """Compile, read the binaries, write OUT.md and OUT.json.

    Args:
        out: report path without suffix.
        capability: 90 for Hopper, 80 for A100.
        everything: all shipped configurations instead of the paper's (head dim 64, K 16, bf16).

    Returns:
        The table.
    """
    shapes = _ALL if everything else _MAIN
    wanted = [(kind, *shape) for kind in ("linear", "mlp") for shape in shapes]
    # Interpreted kernels cannot be compiled.
    env = {"TRITON_INTERPRET": "0"}

    def compile_one(shape: tuple[str, int, int, str]) -> list[dict[str, Any]]:
        words = (*map(str, shape), str(capability))
        return report.run_worker("tttscale.bench.compiled", *words, env=env)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        data = [row for rows in pool.map(compile_one, wanted) for row in rows]
    text = report.table([_row(row) for row in data])
    spilling = sum(row["local_accesses"] > 0 for row in data)
    summary = (
        f"{len(data)} kernels, {sum(not r['fits'] for r in data)} of which do not fit into shared "
        f"memory; {spilling} keep something in local memory."
    )
    note = (
        "Compiled by the host code's own launches (`tttscale.bench.compiled`), nothing was run. "
        "*stack*: bytes of local memory per thread; *local*: its loads and stores in the code, "
        "counted once wherever they stand; *barriers*, *instructions*: likewise."
    )
    sections = [("Result", f"{summary}\n\n{text}"), ("What was measured", note)]
    report.write(out, f"Triton kernels compiled for sm_{capability}", sections, data)
    return text


def _row(row: dict[str, Any]) -> dict[str, str]:
    return {
        "inner": row["inner"],
        "head dim": str(row["dim"]),
        "K": str(row["K"]),
        "dtype": row["dtype"],
        "kernel": row["kernel"].removesuffix("_kernel"),
        "warps": str(row["num_warps"]),
        "registers": str(row["registers"]),
        "stack": str(row["stack_bytes"]),
        "local": str(row["local_accesses"]),
        "shared KiB": f"{row['shared_bytes'] / 1024:.0f}{'' if row['fits'] else ' (too much)'}",
        "barriers": str(row["barriers"]),
        "instructions": str(row["instructions"]),
    }
