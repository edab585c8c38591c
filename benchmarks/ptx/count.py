"""Count what a mini-batch of the serial kernels costs while their compiled code is emulated.

    python -m benchmarks.ptx.count

For the paper's shape in bf16, per mini-batch and head: instructions of PTX per warp, wavefronts of shared
memory (accesses of a warp that go in one turn; a multiprocessor does one a cycle), bytes read from and
written to global memory (in sectors of 32). What is done once per block of mini-batches counts by its share.
Prints a table for Hopper. Without TRITON_INTERPRET.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.problems import on, problem, results
from benchmarks.ptx.__main__ import DTYPES, SCANS
from benchmarks.ptx.execute import Block
from benchmarks.ptx.launch import emulated
from benchmarks.ptx.memory import Space
from benchmarks.ptx.parse import Instruction
from tttscale.bench import report
from tttscale.kernels import scan

DIM, SIZE, BLOCK_TOKENS, CAPABILITY = 64, 16, 64, 90
SECTOR, BANKS = 16, 32  # places; words of two places
_COUNTED_ELSEWHERE = ("wgmma", "cp.async.c")
"""Tensor cores read without turns of a warp; copies count when they land."""


class Counts(Counter):
    """Counts by (kernel, what)."""

    kernel = operation = ""
    """Where the instruction that runs now is, and what it is."""

    def step(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `Block._step`."""

        def run(block: Block, kind: str, instruction: Instruction) -> Any:
            self.kernel, self.operation = block.program.name, instruction.operation
            self[self.kernel, "instructions"] += 1
            return plain(block, kind, instruction)

        return run

    def access(self, plain: Callable[..., Any], what: str) -> Callable[..., Any]:
        """Wraps `Space.read` and `Space.write`."""

        def run(space: Space, at: np.ndarray, warps: np.ndarray, *rest: Any, **options: Any) -> Any:
            if space.name == "global":
                self[self.kernel, f"bytes {what}"] += 32 * _turns(at, warps, _sectors)
            elif not self.operation.startswith(_COUNTED_ELSEWHERE):
                self[self.kernel, "wavefronts"] += _turns(at, warps, _wavefronts)
            return plain(space, at, warps, *rest, **options)

        return run


def _turns(at: np.ndarray, warps: np.ndarray, count: Callable[[np.ndarray], int]) -> int:
    return sum(count(at[warps == warp]) for warp in np.unique(warps))


def _sectors(at: np.ndarray) -> int:
    """Sectors that a warp touches."""
    return len(np.unique(at // SECTOR))


def _wavefronts(at: np.ndarray) -> int:
    """Turns that a warp takes: as many lanes at once as have 128 bytes, and one word of each bank."""
    lanes, turns = max(1, 2 * BANKS // at.shape[1]), 0
    for begin in range(0, len(at), lanes):
        words = np.unique(at[begin : begin + lanes] // 2)
        turns += np.bincount(words % BANKS).max()
    return turns


def counted(kind: str, tokens: int) -> Counts:
    """Counts of a scan's forward and backward."""
    counts = Counts()
    leaves = on("cpu", problem(kind, heads=1, dim=DIM, tokens=tokens, size=SIZE), DTYPES["bf16"])
    scan_type = functools.partial(SCANS[kind], architecture=CAPABILITY)
    with (
        emulated(CAPABILITY),
        mock.patch.object(scan, "_scan_type", return_value=scan_type),
        mock.patch.object(Block, "_step", counts.step(Block._step)),
        mock.patch.object(Space, "read", counts.access(Space.read, "read")),
        mock.patch.object(Space, "write", counts.access(Space.write, "written")),
    ):
        results(kind, leaves, "triton")
    return counts


def main() -> None:
    """Print the table."""
    rows = []
    for kind in ("linear", "mlp"):
        one, two = (counted(kind, n * BLOCK_TOKENS) for n in (1, 2))
        for kernel in sorted({k for k, _ in two if k.startswith("advance")}):
            row = {"inner": kind, "kernel": kernel.removesuffix("_kernel")}
            for what in ("instructions", "wavefronts", "bytes read", "bytes written"):
                more = two[kernel, what] - one[kernel, what]
                row[what] = f"{more * SIZE / BLOCK_TOKENS:,.0f}"
            rows.append(row)
    print(report.table(rows))


if __name__ == "__main__":
    main()
