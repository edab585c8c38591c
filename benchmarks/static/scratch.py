"""Count what a Triton scan allocates: kept by its forward, and at once in its backward. No kernel runs.

Run as `python -m benchmarks.static.scratch CAPABILITY`, without TRITON_INTERPRET; prints one JSON list.
"""

import json
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.static.configurations import DTYPES
from benchmarks.static.recorder import problem_of, recording
from tttscale.kernels.triton_scan.segment import Segment

HEADS, DIM, SIZE = 32, 64, 16
LENGTHS_TOKENS = (2 << 10, 8 << 10, 32 << 10)


class Scratch:
    """Bytes that segments have now, and the most so far."""

    now_bytes = most_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count an allocation, or its end."""
        self.now_bytes += size_bytes
        self.most_bytes = max(self.most_bytes, self.now_bytes)


@contextmanager
def counted() -> Iterator[Scratch]:
    """Count what `Segment.new` makes for as long as it lives: all but states and sums."""
    scratch, new = Scratch(), Segment.new

    def counting(self: Segment, *shape: int, wide: bool = False) -> torch.Tensor:
        tensor = new(self, *shape, wide=wide)
        scratch.add(tensor.nbytes)
        weakref.finalize(tensor, scratch.add, -tensor.nbytes)
        return tensor

    Segment.new = counting
    try:
        yield scratch
    finally:
        Segment.new = new


def measure(kind: str, dtype: str, tokens: int, waited: bool, capability: int) -> dict[str, Any]:
    """One scan's bytes on such a GPU, by which its blocks are 32 or 64 tokens.

    Args:
        kind: "linear" or "mlp".
        dtype: of the tokens, "bf16" or "fp32".
        tokens: of one sequence of `HEADS` heads.
        waited: a neighbour waits, so that each phase runs over all segments.
        capability: 90 for Hopper, 80 for A100.
    """
    with recording(), torch.device("meta"):  # sizes are all that is wanted
        scan, state, q = problem_of(kind, DIM, SIZE, DTYPES[dtype], tokens, HEADS, capability)
        with counted() as forward:
            _, saved, last = scan.forward(state)
        with counted() as scratch:
            if waited:
                works = scan.readout_backward(saved, torch.zeros_like(q))
                scan.advance_backward(saved, works, last)
                scan.gradients(saved, works)
            else:
                scan.backward(saved, torch.zeros_like(q), last)
    kept_bytes = sum(x.nbytes for kept in saved for x in kept)
    return {
        "inner": kind,
        "dtype": dtype,
        "tokens": tokens,
        "waited": waited,
        "kept_bytes": kept_bytes,
        "forward_scratch_bytes": forward.most_bytes - kept_bytes,
        "scratch_bytes": scratch.most_bytes,
    }


def main(capability: int) -> None:
    """Print what both learners allocate in either dtype, alone and with a neighbour that waits."""
    rows = [
        measure(kind, dtype, tokens, waited, capability)
        for kind in ("linear", "mlp")
        for dtype in DTYPES
        for waited in (False, True)
        for tokens in LENGTHS_TOKENS
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]))
