"""Launches for bf16 tokens on GPUs of compute capability 9.0 (H100, H200); newer ones take them too.

Chosen by what the compiler makes of them (benchmarks/kernels_sm90.md), not yet timed on a GPU:
benchmarks/gpu/run.sh tune does that.
"""

from tttscale.kernels.learners import SERIAL_PHASES
from tttscale.kernels.triton_scan.launches.launch import Launch, Table


def linear(kernel: str, dim: int, size: int) -> Launch:
    """TTT-Linear's launches."""
    if kernel in SERIAL_PHASES:
        # Tiles of 32 rows give every thread of 8 warps the 4 bytes that a load ahead needs.
        warps = 4 if dim * size <= 64 * 16 or dim <= 32 else 8
        return Launch(warps, 2, 32, max_registers=255 if size > 32 else None, reads_copies=False)
    if kernel == "gradients":
        return _gradients(dim, 64 if dim <= 64 else 32)
    if kernel == "readout" and dim <= 64:
        return Launch(4, max_registers=168)  # three programs a multiprocessor
    return _one_warpgroup(dim)


def mlp(kernel: str, dim: int, size: int) -> Launch:
    """TTT-MLP's launches."""
    # Tiles of 128 hidden features: 16 rows for each of 8 warps, as fragment order has them.
    if kernel == "advance":
        return Launch(8, 1 if dim <= 64 else 2, 128, resident=dim <= 64 and size == 16)
    if kernel == "advance_backward":
        merged = 32 < dim <= 64 and size == 16  # elsewhere it would spill, or win nothing
        return Launch(8, 2 if dim <= 64 and size < 64 else 1, 128, merged=merged)
    if kernel == "gradients":
        return _gradients(dim, 32)
    return _one_warpgroup(dim)


def _one_warpgroup(dim: int) -> Launch:
    """One warpgroup for a block's 64 rows: of two, the second would do the first one's products again."""
    keys = 16 if 32 < dim <= 64 else 32  # more would spill
    return Launch(4, 2, 32, keys, max_registers=255)


def _gradients(dim: int, columns: int) -> Launch:
    """Head dims above 64 would spill in one warpgroup, and two repeat only one or two of ten products."""
    return Launch(8 if dim > 64 else 4, 2, columns, max_registers=255)


TABLES: dict[str, Table] = {"linear": linear, "mlp": mlp}
