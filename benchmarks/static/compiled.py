"""Compile every Triton kernel for a GPU that need not be there: registers, spills, shared memory.

Run as `python -m benchmarks.static.compiled KIND DIM SIZE DTYPE CAPABILITY`, without TRITON_INTERPRET.
What is compiled is what the scan's own host code launches (`recorder`). Prints one JSON list.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.static.fences import unfenced
from benchmarks.static.fingerprint import fingerprint
from benchmarks.static.latency import cycles_in_all, cycles_per_step, in_loops, issued
from benchmarks.static.products import products
from benchmarks.static.recorder import DTYPE_NAMES, RECORDED_HEADS, RECORDED_TOKENS, launches
from tttscale.kernels.triton_scan.launch_table import FENCED_SINCE, triton_version

_SHARED_LIMIT_BYTES = {80: 163 << 10, 90: 227 << 10}
"""Shared memory that one program can have; an SM has 1 KiB more, and each program takes one."""
_MULTIPROCESSORS = {80: 108, 90: 132}
_BYTES_PER_CYCLE = {80: 2039 / 1.41, 90: 3350 / 1.98}
"""To and from memory: published GB/s of an A100 80 GB and an H100 SXM, over their boost clocks in GHz."""
_REGISTERS = 64 << 10
HEADS = 32
"""Scans at once, where the parallel kernels' cycles are predicted."""


def resources(
    source: ASTSource,
    launch: dict[str, int],
    capability: int,
    block: int = 1,
    tiles: int = 1,
    steps: int = 1,
    turns: int | tuple[int, ...] = 1,
) -> dict[str, Any]:
    """Compile one kernel and read what it needs from the binary.

    Args:
        source: the kernel.
        launch: its warps and options.
        capability: 80 or 90.
        block: as `cycles_per_step` takes it, like the next two.
        tiles: see there.
        steps: see there.
        turns: as `cycles_in_all` takes them, in a kernel that is not serial.
    """
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch)
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _output(tools / "cuobjdump", "-res-usage", file.name)
        code = _output(tools / "cuobjdump", "-sass", file.name)
    registers, stack = (int(re.findall(rf"{key}:(\d+)", usage)[-1]) for key in ("REG", "STACK"))
    done_by = products(compiled.asm["ttgir"])
    early = triton_version() < FENCED_SINCE  # later ones fence behind this dialect
    operations = re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9_]+)", code)
    return {
        **launch,
        "registers": registers,
        "stack_bytes": stack,
        "shared_bytes": compiled.metadata.shared,
        "fits": compiled.metadata.shared <= _SHARED_LIMIT_BYTES[capability],
        "local_accesses": operations.count("LDL") + operations.count("STL"),
        "barriers": operations.count("BAR"),
        "instructions": len(operations),
        "products": len(done_by),
        "unfenced_products": len(unfenced(compiled.asm["ttgir"])) if early else 0,
        "repeated_products": sum(warps > 1 for warps in done_by),
        "issued": issued(code, turns),
        "program_cycles": cycles_in_all(code, turns),
        "program_cycles_loads_exposed": cycles_in_all(code, turns, exposed_loads=True),
        "local_accesses_in_loops": in_loops(code, ("LDL", "STL")),
        "cycles_per_step": cycles_per_step(code, block=block, tiles=tiles, steps=steps),
        "cycles_per_step_loads_exposed": cycles_per_step(
            code, exposed_loads=True, block=block, tiles=tiles, steps=steps
        ),
    }


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(kind: str, dim: int, size: int, dtype: torch.dtype, capability: int) -> None:
    """Compile all kernels of one configuration and print what they need."""
    rows = []
    recorder = launches(kind, dim, size, dtype, capability=capability)
    for name, (source, launch) in recorder.sources.items():
        row = {"inner": kind, "dim": dim, "K": size, "dtype": DTYPE_NAMES[dtype], "kernel": name}
        print(f"compiling {name}", file=sys.stderr)
        known = {
            key: source.constants[(i,)]
            for i, key in enumerate(source.fn.arg_names)
            if key.isupper() and (i,) in source.constants
        }
        row["code"] = fingerprint(source, launch)
        turn = _turns(name, kind, dim, known)
        needs = resources(source, launch, capability, **turn)
        if "turns" in turn:
            needs |= _throughput({**row, **needs}, known["BLOCK"] * size, capability)
            moved = recorder.tensor_bytes[name] / (RECORDED_TOKENS * RECORDED_HEADS)
            needs |= {
                "bytes_per_token": moved,
                "cycles_to_move": moved * HEADS * size / _BYTES_PER_CYCLE[capability],
            }
        rows.append({**row, **needs})
    print(json.dumps(rows))


def _throughput(needs: dict[str, Any], tokens: int, capability: int) -> dict[str, float]:
    """A parallel kernel's programs on one SM, and its cycles for a mini-batch of `HEADS` heads on the GPU."""
    warps, registers = needs["num_warps"], -(-needs["registers"] // 8) * 8
    programs = min(
        _REGISTERS // (32 * warps * registers),
        (_SHARED_LIMIT_BYTES[capability] + 1024) // (needs["shared_bytes"] + 1024),
        64 // warps,
    )
    share = HEADS * needs["K"] / tokens / _MULTIPROCESSORS[capability]
    return {
        "issued_per_token": warps * needs["issued"] / tokens,
        "programs_per_sm": programs,
        "cycles_to_issue": share * warps * needs["issued"] / 4,
        "cycles": share * needs["program_cycles"] / programs,
        "cycles_loads_exposed": share * needs["program_cycles_loads_exposed"] / programs,
    }


def _turns(name: str, kind: str, dim: int, known: dict[str, int]) -> dict[str, Any]:
    """How often a kernel's loops are gone through, as `resources` takes it."""
    inner = dim if kind == "linear" else 4 * dim
    tiles = -(-inner // known.get("IB", inner))
    if not name.startswith("advance"):
        if "KEYS_IB" in known:  # four phases
            replayed = -(-inner // min(known["FP"], 64)) * known["BLOCK"]
            return {"turns": (-(-inner // known["KEYS_IB"]), replayed, tiles, tiles)}
        return {"turns": tiles}
    if kind == "linear":  # its chains take a block in one turn
        return {"steps": known["BLOCK"]}
    return {"block": known["BLOCK"], "tiles": tiles}


if __name__ == "__main__":
    words = sys.argv[1:]
    wanted = {name: dtype for dtype, name in DTYPE_NAMES.items()}[words[3]]
    main(words[0], int(words[1]), int(words[2]), wanted, int(words[4]))
