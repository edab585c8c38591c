"""Launches for GPUs of compute capability 9.0 (H100, H200), and newer ones until they have a file.

Chosen by what the compiler makes of them (benchmarks/kernels_sm90.md), not yet timed on a GPU:
benchmarks/gpu/run.sh tune does that.
"""

from tttscale.kernels.launches.launch import CHAINS, Launch


def launch(kind: str, kernel: str, dim: int, size: int) -> Launch:
    """The launch of a kernel for bf16 tokens."""
    if kernel in CHAINS and kind == "linear":
        # Tiles of 32 rows give every thread of 8 warps the 4 bytes that a load ahead needs.
        warps = 4 if dim * size <= 64 * 16 or dim <= 32 else 8
        return Launch(warps, 2, 32, max_registers=255 if size > 32 else None)
    # Tiles of 128 hidden features: 16 rows for each of 8 warps, as fragment order has them.
    if kernel == "advance":
        return Launch(8, 1 if dim <= 64 else 2, 128, resident=dim <= 64 and size == 16)
    if kernel == "advance_backward":
        merged = 32 < dim <= 64 and size == 16  # elsewhere it would spill, or win nothing
        return Launch(8, 2 if dim <= 64 and size < 64 else 1, 128, merged=merged)
    # One warpgroup for a block's 64 rows: of two, the second would do the first one's products again. But
    # gradients of head dims above 64 would spill, and only one or two of their ten products are done again.
    if kernel == "gradients":
        single = kind == "linear" and dim <= 64
        return Launch(8 if dim > 64 else 4, 2, 64 if single else 32, max_registers=255)
    if kernel == "readout" and kind == "linear" and dim <= 64:
        return Launch(4, max_registers=168)  # three programs a multiprocessor
    keys = 16 if 32 < dim <= 64 else 32  # more would spill
    return Launch(4, 2, 32, keys, max_registers=255)
