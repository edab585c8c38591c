"""Find what every Triton kernel needs, compiled without a GPU: registers, spills, shared memory, cycles.

    python -m benchmarks.static.kernels                        the paper's shape, for Hopper
    python -m benchmarks.static.kernels --all --capability 80  every shipped configuration, for an A100
    python -m benchmarks.static.kernels --render benchmarks/kernels_sm90   the page again, from its JSON

The page has the paper's shape and a summary; every row is in the JSON.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.static.configurations import PAPER, Shape, shapes_of
from tttscale.bench import report

Rows = list[dict[str, Any]]
_ENV = {"TRITON_INTERPRET": "0"}  # interpreted kernels cannot be compiled


def bench_kernels(out: Path, capability: int, everything: bool, fla: Path | None = None) -> None:
    """Compile, read the binaries, write OUT.md and OUT.json.

    Args:
        out: report path without suffix.
        capability: 90 for Hopper, 80 for A100.
        everything: all shipped configurations instead of the paper's (head dim 64, K 16).
        fla: folder that the package fla lies in; its serial kernels are then predicted beside ours.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        compiled = pool.map(partial(compile_shape, capability), shapes_of(capability, everything))
        kernels = [row for rows in compiled for row in rows]
    kernels.sort(key=lambda row: row["inner"])  # compiled in another order, the long ones first
    peers, env = [], dict(_ENV)
    if fla is not None:
        env["PYTHONPATH"] = os.pathsep.join((str(fla), os.environ.get("PYTHONPATH", "")))
        peers = report.run_worker("benchmarks.static.compiled_peer", str(capability), env=env)
    scratch = report.run_worker("benchmarks.static.scratch", str(capability), env=_ENV)
    found = {"capability": capability, "kernels": kernels, "peers": peers, "scratch": scratch}
    report.write(out, title_of(found), sections_of(found), found)


def render(out: Path) -> None:
    """Write OUT.md again from OUT.json; nothing is compiled."""
    facts, data = report.read(out)
    report.write_page(out, title_of(data), facts, sections_of(data))


def compile_shape(capability: int, shape: Shape) -> Rows:
    """Compile every kernel of one configuration in a process of its own; one row each."""
    words = (*map(str, shape), str(capability))
    return report.run_worker("benchmarks.static.compiled", *words, env=_ENV)


# ---- the page ----------------------------------------------------------------------------------


def title_of(found: dict[str, Any]) -> str:
    """The page's title."""
    return f"Triton kernels compiled for sm_{found['capability']}"


def sections_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The page's sections, for kernels, a peer's kernels and scratch memory."""
    kernels = found["kernels"]
    paper = [row for row in kernels if _shape(row) in PAPER]
    return [
        ("Result", _summary(kernels)),
        ("The paper's shape", report.table([_row(row) for row in paper]) + _NOTE),
        ("Every configuration", report.table(_by_configuration(kernels)) + _GRID_NOTE),
        ("Predicted cycles of the serial kernels", _chains(kernels, found["peers"]) + _CHAIN_NOTE),
        (
            "Predicted cycles of the parallel kernels",
            report.table(_parallel(kernels)) + _PARALLEL_NOTE,
        ),
        ("Memory of a scan", report.table(list(map(_memory, found["scratch"]))) + _MEMORY_NOTE),
    ]


def _shape(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["dim"], row["K"], row["dtype"]


def _summary(kernels: Rows) -> str:
    spilling = [row for row in kernels if row["local_accesses_in_loops"]]
    of_paper = [row for row in spilling if _shape(row) in PAPER]
    fenced = (
        f" {sum(row['unfenced_products'] for row in kernels)} products read shared memory without the "
        "proxy fence that PTX asks for (`benchmarks.static.fences`)."
        if all("unfenced_products" in row for row in kernels)  # older reports do not say
        else ""
    )
    return (
        f"{len(kernels)} kernels, {sum(not row['fits'] for row in kernels)} of which do not fit into "
        f"shared memory. {len(spilling)} spill inside a loop, {len(of_paper)} of them at head dim 64 and "
        f"K 16; {sum(row['local_accesses'] > 0 for row in kernels)} have any access to local memory."
    ) + fenced


def _row(row: dict[str, Any]) -> dict[str, str]:
    return {
        "inner": row["inner"],
        "dtype": row["dtype"],
        "kernel": row["kernel"].removesuffix("_kernel"),
        "warps": str(row["num_warps"]),
        "registers": str(row["registers"]),
        "stack": str(row["stack_bytes"]),
        "in loops": str(row["local_accesses_in_loops"]),
        "shared KiB": f"{row['shared_bytes'] / 1024:.0f}{'' if row['fits'] else ' (too much)'}",
        "barriers": str(row["barriers"]),
        "instructions": str(row["instructions"]),
        "products": str(row["products"] or "plain"),
        "repeated": str(row["repeated_products"]),
        "issued/token": f"{row['issued_per_token']:,.0f}" if "issued_per_token" in row else "",
    }


def _by_configuration(kernels: Rows) -> list[dict[str, str]]:
    """A line for each learner, dtype and head dim; for each K the kernels that spill (inside a loop)."""
    lines = []
    sizes = sorted({row["K"] for row in kernels})
    for inner, dtype, dim in dict.fromkeys((r["inner"], r["dtype"], r["dim"]) for r in kernels):
        same = [r for r in kernels if (r["inner"], r["dtype"], r["dim"]) == (inner, dtype, dim)]
        line = {"inner": inner, "dtype": dtype, "head dim": str(dim)}
        for size in sizes:
            line[f"K {size}"] = _spills([row for row in same if row["K"] == size])
        line["most shared KiB"] = f"{max(row['shared_bytes'] for row in same) / 1024:.0f}"
        lines.append(line)
    return lines


def _spills(rows: Rows) -> str:
    if not rows:
        return "not shipped"
    spilling = sum(row["local_accesses"] > 0 for row in rows)
    in_loops = sum(row["local_accesses_in_loops"] > 0 for row in rows)
    return f"{spilling} ({in_loops}) of {len(rows)}"


_GRID_NOTE = (
    "\n\nKernels of a configuration with any access to local memory (with one inside a loop), and the most "
    "shared memory that one of them takes. Every row is in the JSON of the same name in `data/`."
)
_NOTE = (
    "\n\nCompiled from the host code's own launches (`benchmarks.static.recorder`); nothing was run. "
    "*stack*: bytes of local memory per thread; *in loops*: loads and stores of it that are done more than "
    "once; *barriers*, *instructions*: counted once wherever they stand. *products*: those on tensor cores "
    "(fp32: none, plain units), of which *repeated* are done by two warps or more, because there are too few "
    "rows. *issued/token*: what a parallel kernel's warps issue for one token of one head, loops by their "
    "turns; an SM issues four a cycle."
)
_CHAIN_NOTE = (
    "\n\nA static model (`benchmarks.static.latency`: one warp in order, fixed latencies), **not a "
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
        if row["kernel"].startswith("advance") and (row["dim"], row["K"], row["dtype"]) == PAPER[0]
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
        if "issued_per_token" in row and (row["dim"], row["K"], row["dtype"]) == PAPER[0]
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


# ---- the command -------------------------------------------------------------------------------


def main(words: list[str] | None = None) -> None:
    """Compile and report, or render a report again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="PATH", help="report path without suffix")
    parser.add_argument("--capability", type=int, choices=(80, 90), default=90, help="80: A100")
    parser.add_argument("--all", action="store_true", help="every shipped configuration")
    parser.add_argument("--fla", type=Path, help="folder of an unpacked fla-core 0.6.0, as a peer")
    parser.add_argument("--render", type=Path, metavar="PATH", help="write PATH.md from its JSON")
    asked = parser.parse_args(words)
    if asked.render is not None:
        return render(asked.render)
    if asked.fla is not None and not (asked.fla / "fla").is_dir():
        parser.error(f"--fla {asked.fla}: no folder fla in it; unpack the wheel of fla-core there")
    # Two generations, or few kernels and all, are not one report: neither overwrites the other.
    name = f"kernels_sm{asked.capability}{'' if asked.all else '_paper'}"
    out = asked.out or Path("benchmarks", name)
    bench_kernels(out, asked.capability, asked.all, asked.fla)
    print(report.beside(out, ".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
