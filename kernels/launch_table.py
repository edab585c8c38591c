"""How each Triton kernel is launched: warps, pipeline stages, columns at a time, by GPU generation.

A fixed table instead of a race at run time: the same launch always does the same sums in the same order,
so that losses stay equal to the last bit over any number of ranks.
"""

from dataclasses import dataclass
from functools import cache

import torch

BLOCK_TOKENS = 64
"""Most tokens of a block of the parallel kernels, between two saved states."""
SIZES, LARGEST_DIM = (16, 32, 64), 128


@dataclass(frozen=True)
class Launch:
    """One kernel's launch."""

    num_warps: int
    num_stages: int = 1
    inner_columns: int = 32
    """Hidden features that a program takes at a time; rows of a tile of W in TTT-Linear's chains."""
    resident: bool = False
    """TTT-MLP's forward chain: whether the state stays in registers."""
    max_registers: int | None = None
    """Per thread, where not all fits: left alone the compiler goes down to 32 and spills the rest."""


def architecture_of(device: torch.device) -> int:
    """The part of the table for a device: 80 (before Hopper) or 90; 70 for what is older than both.

    Launches are checked for the shared memory of an A100 and an H100; GPUs of these generations that have
    less of it (consumer cards) may be refused by Triton at the first launch.
    """
    if device.type != "cuda":
        return 90
    generation = torch.cuda.get_device_capability(device)[0]
    return 70 if generation < 8 else 80 if generation < 9 else 90


def mini_batches_per_block(architecture: int, size: int, dtype: torch.dtype) -> int:
    """Mini-batches of a block, the same for all kernels of a scan.

    Half as many in fp32, whose products run on the plain units, and before Hopper, whose tensor cores take
    both operands from registers: 64 tokens at a time would spill.
    """
    half = dtype == torch.float32 or architecture == 80
    return max(1, BLOCK_TOKENS // (2 if half else 1) // size)


def why_no_launch(
    architecture: int, kind: str, dim: int, size: int, dtype: torch.dtype
) -> str | None:
    """Why the table has nothing for a scan, as the rest of a sentence; None if it has."""
    if architecture < 80:
        return "needs a GPU of compute capability 8.0 or more"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"takes fp32 and bf16, not {str(dtype).removeprefix('torch.')}"
    if dim > LARGEST_DIM:
        return f"takes head dims up to {LARGEST_DIM}, not {dim}"
    if size not in SIZES:
        return f"takes mini-batches of 16, 32 or 64 tokens, not {size}"
    if (architecture, kind, dtype, size) == (80, "mlp", torch.float32, 64) and dim > 64:
        # 168 KiB of shared memory, of 163.
        return "takes mini-batches of 16 or 32 tokens in fp32 at head dims above 64 on this GPU"
    return None


@cache
def launch_of(
    architecture: int, kind: str, kernel: str, dim: int, size: int, dtype: torch.dtype
) -> Launch:
    """The launch of a kernel.

    Args:
        architecture: 80 or 90, see `architecture_of`.
        kind: "linear" or "mlp".
        kernel: "advance", "readout", "readout_backward", "advance_backward", "gradients", ...
        dim: features per head.
        size: K.
        dtype: of the tokens.
    """
    chain = kernel in ("advance", "advance_backward")
    if chain and kind == "linear":
        return _linear_chain(kernel, dim, size, dtype)
    if dtype == torch.float32:
        return _exact(kind, chain, dim, size)
    few = kind == "linear" and dim <= 64 and kernel != "gradients"
    if architecture == 80:
        return _ampere(kind, kernel, dim, size, 4 if few else 8)
    if chain and kernel == "advance":
        resident = dim <= 64 and size == 16
        return Launch(8, 1 if dim <= 64 else 2, 128, resident=resident)
    if chain:
        return Launch(8, 2 if dim <= 64 and size < 64 else 1, 128)
    return Launch(4 if few else 8, 1)


def _linear_chain(kernel: str, dim: int, size: int, dtype: torch.dtype) -> Launch:
    """Tiles of few rows, which leave a product's columns in their warp."""
    if dtype == torch.float32:
        if dim > 64 or size > 16:
            rows = LARGEST_DIM if dim > 96 or (dim > 32 and size > 32) else 16
            return Launch(16, 1, rows, max_registers=128)
        return Launch(8, 1, 32 if kernel == "advance" else 64)
    # Tiles of 32 rows give every thread of 8 warps the 4 bytes that a load ahead needs.
    warps = 4 if dim * size <= 64 * 16 or dim <= 32 else 8
    return Launch(warps, 2, 32, max_registers=255 if size > 32 else None)


def _ampere(kind: str, kernel: str, dim: int, size: int, warps: int) -> Launch:
    """Its tensor cores take both operands from registers: half the columns."""
    most = 255 if size > 32 else None
    if kind == "mlp" and kernel == "advance":
        return Launch(8, 2, 64 if dim > 64 and size > 16 else 128, max_registers=most)
    if kind == "mlp" and kernel == "advance_backward":
        return Launch(8, 2 if dim <= 64 and size < 64 else 1, 128, max_registers=255)
    return Launch(8 if dim * size > 64 * 16 else warps, 1, 16, max_registers=most)


def _exact(kind: str, chain: bool, dim: int, size: int) -> Launch:
    """fp32 products run on the plain units and take many registers: fewer columns."""
    large = dim > 64 or size > 16
    if kind == "mlp" and chain:
        return Launch(8, 1, 16 if dim > 64 else 32, max_registers=255 if large else None)
    if large:
        return Launch(16, 1, 16, max_registers=128)
    return Launch(8, 1, 16)
