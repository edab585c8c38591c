"""Launches for GPUs of compute capability 8.0 (A100), and others of 8.x.

Chosen by what the compiler makes of them (benchmarks/kernels_sm80.md), never timed. The tensor cores take
both operands from registers: half the columns of hopper.py in the parallel kernels.
"""

from tttscale.kernels.launches.launch import CHAINS, Launch


def launch(kind: str, kernel: str, dim: int, size: int) -> Launch:
    """The launch of a kernel for bf16 tokens."""
    most = 255 if size > 32 else None
    if kernel in CHAINS and kind == "linear":
        return Launch(4 if dim * size <= 64 * 16 or dim <= 32 else 8, 2, 32, max_registers=most)
    if kernel == "advance":
        return Launch(8, 2, 64 if dim > 64 and size > 16 else 128, max_registers=most)
    if kernel == "advance_backward":
        return Launch(8, 2 if dim <= 64 and size < 64 else 1, 128, max_registers=255)
    few = kind == "linear" and dim <= 64 and size * dim <= 64 * 16 and kernel != "gradients"
    return Launch(4 if few else 8, 1, 16, max_registers=most)
