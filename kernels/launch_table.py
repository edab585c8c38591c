"""How each Triton kernel is launched: warps, pipeline stages, mini-batches per block.

A fixed table instead of a race at run time: the same launch always does the same sums in the same order,
so that losses stay equal to the last bit over any number of ranks.
"""

from dataclasses import dataclass
from functools import cache

import torch

BLOCK_TOKENS = 64
"""Tokens of a block of the parallel kernels, between two saved states."""


@dataclass(frozen=True)
class Launch:
    """One kernel's launch."""

    num_warps: int
    num_stages: int = 1
    block: int = 4
    """Mini-batches per block."""
    inner_columns: int = 32
    """Columns of the hidden layer that a parallel kernel takes at a time."""


@cache
def launch_of(kind: str, kernel: str, dim: int, size: int, dtype: torch.dtype) -> Launch:
    """The launch of a kernel.

    Args:
        kind: "linear" or "mlp".
        kernel: "advance", "readout", "readout_backward", "advance_backward", "gradients", ...
        dim: features per head, up to 128 (mlp: 64).
        size: K, 16, 32 or 64.
        dtype: of the tokens.
    """
    block = max(1, BLOCK_TOKENS // size)
    if kernel in ("advance", "advance_backward"):
        if kind == "linear":
            return Launch(4 if dim <= 64 else 8, 2, block)
        # A second stage of loads has room beside the matrices only where tiles are small.
        small = size == 16 and dtype == torch.bfloat16
        return Launch(16, 2 if small else 1, block)
    if kind == "linear" and kernel != "gradients":
        return Launch(4 if dim <= 64 else 8, 1, block)
    return Launch(8, 1, block, 32)
