"""Find what the kernels of one token need, compiled without a GPU: registers, spills, shared memory, cycles.

    python -m benchmarks.static.one_token --out benchmarks/kernels_one_token
    python -m benchmarks.static.one_token --render benchmarks/kernels_one_token   the page, from its JSON

Every head dim and inner learner, for Hopper and for an A100, with sums of tokens before and for the first
token of a mini-batch. Takes a minute or two.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tttscale.bench import report
from tttscale.kernels.learners import LEARNERS

Rows = list[dict[str, Any]]
CAPABILITIES, DIMS, KINDS = (90, 80), (16, 32, 64, 96, 128), ("linear", "mlp")
_HEADS = 32
_ENV = {"TRITON_INTERPRET": "0"}  # interpreted kernels cannot be compiled
_TITLE = "Kernels of one token, compiled"
_NOTE = (
    "One program reads the token of one row and head; all in fp32, products on plain units. *sums*: whether "
    "there are tokens before in the mini-batch. *in loops*: loads and stores of local memory that are done "
    "more than once. *bytes*: all tensors that a launch takes, each counted once, for one head. *cycles*: "
    "from a program's first instruction to its last by the static model of `benchmarks.static.latency`, with "
    "loads as prefetched and in full, **not a measurement**. Nothing was run, and no speed on a GPU has been "
    "measured. Results are checked under Triton's interpreter (tests/kernels/test_one_token.py)."
)


def recorded(kind: str, dim: int, capability: int, has_sums: bool) -> Any:
    """Record what one token of `_HEADS` heads launches on such a GPU."""
    from benchmarks.static.recorder import recording
    from tttscale.kernels.triton_scan.one_token import one_token

    q = torch.zeros(1, _HEADS, dim)
    norm = torch.zeros(_HEADS, dim)
    state = tuple(torch.zeros(shape) for shape in LEARNERS[kind].state_shapes(1, _HEADS, dim))
    with recording() as recorder:
        sums = state if has_sums else None
        lr, tau = torch.zeros(1, _HEADS), torch.zeros(1)
        one_token(kind, q, q, q, lr, tau, norm, norm, state, sums, capability)
    return recorder


def configurations() -> Iterator[tuple[str, int, bool]]:
    """List learner, head dim, and whether there are sums."""
    return ((kind, dim, sums) for kind in KINDS for dim in DIMS for sums in (False, True))


def compiled(capability: int, compiles: bool = True) -> Rows:
    """Compile all kernels for such a GPU, one row each; or only fingerprint them."""
    from benchmarks.static.compiled import resources
    from benchmarks.static.fingerprint import fingerprint

    rows = []
    for kind, dim, sums in configurations():
        recorder = recorded(kind, dim, capability, sums)
        ((name, (source, launch)),) = recorder.sources.items()
        row = {"capability": capability, "inner": kind, "dim": dim, "sums": sums, "kernel": name}
        row["code"] = fingerprint(source, launch)
        if compiles:
            print(f"compiling {kind} {dim} for sm_{capability}", file=sys.stderr)
            tile = source.constants[(source.fn.arg_names.index("IB"),)]
            turns = -(-LEARNERS[kind].inner_width(dim) // tile)
            row |= resources(source, launch, capability, turns=turns)
            row["bytes"] = recorder.tensor_bytes[name] / _HEADS
        rows.append(row)
    return rows


def faults(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Say which kernels do not fit, or spill inside a loop at head dims up to 64."""
    for row in rows:
        name = (
            f"{row['inner']}:{row['dim']}:{'sums' if row['sums'] else 'first'}:{row['capability']}"
        )
        if not row["fits"]:
            yield f"{name}: {row['shared_bytes']} bytes of shared memory do not fit"
        if row["local_accesses_in_loops"] and row["dim"] <= 64:
            yield f"{name}: {row['local_accesses_in_loops']} local accesses in loops"


def sections_of(rows: Rows) -> list[tuple[str, str]]:
    """Return the page's sections."""
    spilling = sum(row["local_accesses"] > 0 for row in rows)
    unfit = sum(not row["fits"] for row in rows)
    summary = (
        f"{len(rows)} kernels, {unfit} of which do not fit into shared memory; {spilling} have any access to "
        f"local memory, {sum(row['local_accesses_in_loops'] > 0 for row in rows)} inside a loop."
    )
    return [("Result", summary), ("Kernels", report.table(list(map(_line, rows)))), ("How", _NOTE)]


def _line(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["program_cycles"], row["program_cycles_loads_exposed"]
    return {
        "GPU": f"sm_{row['capability']}",
        "inner": row["inner"],
        "head dim": str(row["dim"]),
        "sums": "yes" if row["sums"] else "no",
        "warps": str(row["num_warps"]),
        "registers": str(row["registers"]),
        "stack": str(row["stack_bytes"]),
        "in loops": str(row["local_accesses_in_loops"]),
        "shared bytes": f"{row['shared_bytes']:,}{'' if row['fits'] else ' (too much)'}",
        "barriers": str(row["barriers"]),
        "instructions": f"{row['instructions']:,}",
        "bytes": f"{row['bytes']:,.0f}",
        "cycles": f"{low:,.0f} to {high:,.0f}",
    }


def compile_all(capabilities: Sequence[int] = CAPABILITIES) -> Rows:
    """Compile for each GPU in a process of its own, side by side."""
    words = [("--compile", str(capability)) for capability in capabilities]
    workers = [
        report.start_worker("benchmarks.static.one_token", *words_, env=_ENV) for words_ in words
    ]
    return [row for rows in report.collect(workers) for row in rows]


def render(out: Path) -> None:
    """Write OUT.md again from OUT.json; nothing is compiled."""
    facts, rows = report.read(out)
    report.write_page(out, _TITLE, facts, sections_of(rows))


def main() -> None:
    """Compile and report, or render a report again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="PATH", help="report path without suffix")
    parser.add_argument("--render", type=Path, metavar="PATH", help="write PATH.md from its JSON")
    parser.add_argument("--compile", type=int, metavar="CAPABILITY", help="print rows as JSON")
    parser.add_argument("--fingerprint", type=int, metavar="CAPABILITY", help="without compiling")
    asked = parser.parse_args()
    if asked.render is not None:
        render(asked.render)
    elif asked.compile is not None or asked.fingerprint is not None:
        print(json.dumps(compiled(asked.compile or asked.fingerprint, asked.compile is not None)))
    else:
        rows = compile_all()
        report.write(
            asked.out or Path("benchmarks/kernels_one_token"), _TITLE, sections_of(rows), rows
        )


if __name__ == "__main__":
    main()
