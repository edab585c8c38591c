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
    """Hidden features that a program takes at a time."""
    resident: bool = False
    """TTT-MLP's forward chain: whether the state stays in registers."""


@cache
def launch_of(kind: str, kernel: str, dim: int, size: int, dtype: torch.dtype) -> Launch:
    """The launch of a kernel.

    Args:
        kind: "linear" or "mlp".
        kernel: "advance", "readout", "readout_backward", "advance_backward", "gradients", ...
        dim: features per head, up to 128.
        size: K, 16, 32 or 64.
        dtype: of the tokens.
    """
    # Exact fp32 products take many registers: smaller blocks, and half the columns.
    narrow = dtype == torch.bfloat16
    block = max(1, (BLOCK_TOKENS if narrow else BLOCK_TOKENS // 2) // size)
    if kind == "mlp" and kernel in ("advance", "advance_backward"):
        if kernel == "advance" and narrow and dim <= 64 and size == 16:
            return Launch(8, 1, block, 128, resident=True)
        if narrow:
            return Launch(8, 2, block, 128 if dim <= 64 and size == 16 else 64)
        return Launch(8, 1, block, 32)
    few = narrow and dim <= 64 and kind == "linear" and kernel != "gradients"
    stages = 2 if kernel in ("advance", "advance_backward") else 1
    return Launch(4 if few else 8, stages, block, 32 if narrow else 16)
