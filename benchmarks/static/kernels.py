"""`tttscale bench kernels`: what every Triton kernel needs, compiled for a GPU that need not be there."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tttscale.bench import report
from tttscale.kernels.launch_table import why_no_launch

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Shape = tuple[str, int, int, str]
"""Inner learner, head dim, K, dtype of the tokens."""
_MAIN = [(64, 16, "bf16"), (64, 16, "fp32")]
_ALL = [
    (dim, size, dtype)
    for dtype in ("bf16", "fp32")
    for dim in (16, 32, 64, 96, 128)
    for size in (16, 32, 64)
]
_ENV = {"TRITON_INTERPRET": "0"}  # interpreted kernels cannot be compiled


def bench_kernels(out: Path, capability: int, everything: bool, fla: Path | None = None) -> str:
    """Compile, read the binaries, write OUT.md and OUT.json.

    Args:
        out: report path without suffix.
        capability: 90 for Hopper, 80 for A100.
        everything: all shipped configurations instead of the paper's (head dim 64, K 16).
        fla: folder that the package fla lies in; its serial kernels are then predicted beside ours.

    Returns:
        The table.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        compiled = pool.map(partial(compile_shape, capability), shapes_of(capability, everything))
        data = [row for rows in compiled for row in rows]
    data.sort(key=lambda row: row["inner"])  # compiled in another order, the long ones first
    text = report.table([_row(row) for row in data])
    spilling = [row for row in data if row["local_accesses_in_loops"]]
    of_paper = [row for row in spilling if (row["dim"], row["K"]) == _MAIN[0][:2]]
    summary = (
        f"{len(data)} kernels, {sum(not r['fits'] for r in data)} of which do not fit into shared "
        f"memory. {len(spilling)} spill inside a loop, {len(of_paper)} of them at head dim 64 and "
        f"K 16; {sum(row['local_accesses'] > 0 for row in data)} have any access to local memory. "
        f"{sum(row['unfenced_products'] for row in data)} products read shared memory without the proxy "
        "fence that PTX asks for (`tttscale.bench.fences`)."
    )
    peers, env = [], dict(_ENV)
    if fla is not None:
        env["PYTHONPATH"] = os.pathsep.join((str(fla), os.environ.get("PYTHONPATH", "")))
        peers = report.run_worker("tttscale.bench.compiled_peer", str(capability), env=env)
    scratch = report.run_worker("tttscale.bench.scratch", str(capability), env=_ENV)
    sections = [
        ("Result", f"{summary}\n\n{text}"),
        ("Predicted cycles of the serial kernels", _chains(data, peers) + _CHAIN_NOTE),
        (
            "Predicted cycles of the parallel kernels",
            report.table(_parallel(data)) + _PARALLEL_NOTE,
        ),
        ("Memory of a scan", report.table([_memory(row) for row in scratch]) + _MEMORY_NOTE),
        ("What was measured", _NOTE),
    ]
    written = {"kernels": data, "peers": peers, "scratch": scratch}
    report.write(out, f"Triton kernels compiled for sm_{capability}", sections, written)
    return text


def shapes_of(capability: int, everything: bool) -> list[Shape]:
    """All shipped configurations, or the paper's, that such a GPU takes; long compilations first."""
    return [
        (kind, dim, size, dtype)
        for kind in ("mlp", "linear")
        for dim, size, dtype in (_ALL if everything else _MAIN)
        if why_no_launch(capability, dim, size, DTYPES[dtype]) is None
    ]


def compile_shape(capability: int, shape: Shape) -> list[dict[str, Any]]:
    """Every kernel of one configuration, compiled in a process of its own: what each needs."""
    words = (*map(str, shape), str(capability))
    return report.run_worker("tttscale.bench.compiled", *words, env=_ENV)


_NOTE = (
    "Compiled by the host code's own launches (`tttscale.bench.compiled`), nothing was run. *stack*: "
    "bytes of local memory per thread; *local*: its loads and stores in the code, counted once "
    "wherever they stand; *in loops*: those that are done more than once; *barriers*, *instructions*: "
    "counted once. *products*: those on tensor cores (fp32: none, plain units), of which *repeated* are done "
    "by two warps or more, for want of rows. *issued/token*: what a parallel kernel's warps issue for one "
    "token of one head, loops by their turns; an SM issues four a cycle."
)
_CHAIN_NOTE = (
    "\n\nA static model (`tttscale.bench.latency`: one warp in order, fixed latencies), **not a "
    "measurement**; the order is worth more than the size. A step is one mini-batch; what is done once "
    "per block of mini-batches counts by its share, loops over tiles by their turns. The first "
    "figure takes loads from memory as prefetched, the second in full. A training step goes through "
    "advance and advance_backward once each; with fla's chunk kernels through fwd_h, bwd_h and "
    "bwd_norm, with its fused ones through fwd, bwd_h and bwd_dh. fla's compute less: rates per row "
    "only. Its warps are those of its autotuner's choices with the fewest predicted cycles."
)


_PARALLEL_NOTE = (
    "\n\nbf16, head dim 64, K 16. *issued/token*: instructions of all warps for one token of one head. "
    "Cycles of the whole GPU for one mini-batch of 32 heads: *to issue* them, four a cycle and SM; and, by "
    "the static model above, to go through the programs, as many of them side by side as registers and "
    "shared memory allow, with loads from memory as prefetched and in full. *bytes/token*: all tensors that "
    "a launch takes, each counted once, for one token of one head; to *move* them takes so many cycles at "
    "the published bandwidth and boost clock (H100 SXM 3,350 GB/s and 1.98 GHz, A100 80 GB 2,039 GB/s and "
    "1.41 GHz), if within a launch all of a block stays in the second-level cache, and nothing from one "
    "launch to the next. The largest one counts."
)
_MEMORY_NOTE = (
    "\n\nOne sequence, 32 heads of 64 features, counted where the host code allocates scratch (all "
    "but the running states): what the forward keeps for the backward, and the most scratch that exists at "
    "once beside it. Where a neighbour waits, each phase runs over all tokens before the next begins, "
    "so that the gradients of the tokens come after all of the reverse chain."
)


def _chains(data: list[dict[str, Any]], peers: list[dict[str, Any]]) -> str:
    """Serial kernels of the paper's shape, ours and then the peer's."""
    own = [
        {**row, "kernel": f"{row['inner']} {row['kernel']}"}
        for row in data
        if row["kernel"].startswith("advance") and (row["dim"], row["K"], row["dtype"]) == _MAIN[0]
    ]
    lines = [
        {
            "kernel": row["kernel"].removesuffix("_kernel"),
            "warps": str(row["num_warps"]),
            "registers": str(row["registers"]),
            "stack": str(row["stack_bytes"]),
            "cycles/step": _cycles(row),
        }
        for row in [*own, *peers]
    ]
    return report.table(lines)


def _parallel(data: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Parallel kernels of the paper's shape, and the sum of each learner's."""
    found = [
        row
        for row in data
        if "issued_per_token" in row and (row["dim"], row["K"], row["dtype"]) == _MAIN[0]
    ]
    lines = []
    for inner in dict.fromkeys(row["inner"] for row in found):
        rows = [row for row in found if row["inner"] == inner]
        lines += [
            _throughput(f"{inner} {row['kernel'].removesuffix('_kernel')}", row) for row in rows
        ]
        keys = ("issued_per_token", "cycles_to_issue", "cycles", "cycles_loads_exposed")
        keys += ("products", "repeated_products", "bytes_per_token", "cycles_to_move")
        lines.append(_throughput(f"{inner}, all", {key: sum(r[key] for r in rows) for key in keys}))
    return lines


def _throughput(name: str, row: dict[str, Any]) -> dict[str, str]:
    return {
        "kernel": name,
        "programs/SM": str(row.get("programs_per_sm", "")),
        "products": str(row["products"]),
        "repeated": str(row["repeated_products"]),
        "issued/token": f"{row['issued_per_token']:,.0f}",
        "cycles to issue": f"{row['cycles_to_issue']:,.0f}",
        "cycles": f"{row['cycles']:,.0f} to {row['cycles_loads_exposed']:,.0f}",
        "bytes/token": f"{row['bytes_per_token']:,.0f}",
        "cycles to move": f"{row['cycles_to_move']:,.0f}",
    }


def _cycles(row: dict[str, Any]) -> str:
    low, high = row["cycles_per_step"], row["cycles_per_step_loads_exposed"]
    return "no loop found" if low is None else f"{low:,.0f} to {high:,.0f}"


def _memory(row: dict[str, Any]) -> dict[str, str]:
    return {
        "inner": row["inner"],
        "dtype": row["dtype"],
        "tokens": f"{row['tokens']:,}",
        "neighbour waits": "yes" if row["waited"] else "no",
        "kept, bytes per token and head": f"{row['kept_bytes'] / row['tokens'] / 32:,.0f}",
        "forward's scratch, MiB": f"{row['forward_scratch_bytes'] / 2**20:,.0f}",
        "backward's scratch, MiB": f"{row['scratch_bytes'] / 2**20:,.0f}",
        "the same, bytes per token and head": f"{row['scratch_bytes'] / row['tokens'] / 32:,.0f}",
    }


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
        "in loops": str(row["local_accesses_in_loops"]),
        "shared KiB": f"{row['shared_bytes'] / 1024:.0f}{'' if row['fits'] else ' (too much)'}",
        "barriers": str(row["barriers"]),
        "instructions": str(row["instructions"]),
        "products": str(row["products"] or "plain"),
        "repeated": str(row["repeated_products"]),
        "issued/token": f"{row['issued_per_token']:,.0f}" if "issued_per_token" in row else "",
    }
