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
    max_registers: int | None = None
    """Per thread, where not all fits: left alone the compiler goes down to 32 and spills the rest."""


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
    chain, small = kernel in ("advance", "advance_backward"), dim <= 64 and size == 16
    if dtype == torch.float32:
        return _exact(kind, chain, dim, size)
    block = max(1, BLOCK_TOKENS // size)
    if kind == "mlp" and chain:
        if kernel == "advance" and small:
            return Launch(8, 1, block, 128, resident=True)
        return Launch(8, 2, block, 128 if small else 64)
    if chain:
        return Launch(4 if dim * size <= 64 * 16 else 8, 1 if dim > 64 and size > 16 else 2, block)
    few = dim <= 64 and kind == "linear" and kernel != "gradients"
    return Launch(4 if few else 8, 1, block)


def _exact(kind: str, chain: bool, dim: int, size: int) -> Launch:
    """fp32 products run on the plain units and take many registers: smaller blocks, fewer columns."""
    block = max(1, BLOCK_TOKENS // 2 // size)
    large = dim > 64 or size > 16
    if kind == "mlp" and chain:
        return Launch(8, 1, block, 32, max_registers=255 if large else None)
    if large:
        return Launch(16, 1, block, 16, max_registers=128)
    return Launch(8, 2 if chain else 1, block, 16)
