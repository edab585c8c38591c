"""Launches for bf16 tokens on GPUs of compute capability 8.0 (A100), and others of 8.x.

Chosen by what the compiler makes of them (benchmarks/kernels_sm80.md), never timed. The parallel kernels:
one warp for 16 rows of a block, so that none does another's products again.
"""

from tttscale.kernels.learners import SERIAL_PHASES
from tttscale.kernels.triton_scan.launches.launch import Launch, Table


def linear(kernel: str, dim: int, size: int) -> Launch:
    """TTT-Linear's launches."""
    if kernel in SERIAL_PHASES:
        most = 255 if size > 32 else None
        return Launch(4 if dim * size <= 64 * 16 or dim <= 32 else 8, 2, 32, max_registers=most)
    if dim > 64 and kernel in ("gradients", "readout_backward"):
        return Launch(8, 2, 32, max_registers=255)  # with fewer warps they would spill
    return Launch(4, 2, 32, 16, max_registers=255)


def mlp(kernel: str, dim: int, size: int) -> Launch:
    """TTT-MLP's launches."""
    if kernel == "advance":
        most = 255 if size > 32 else None
        return Launch(8, 2, 64 if dim > 64 and size > 16 else 128, max_registers=most)
    if kernel == "advance_backward":
        return Launch(8, 2 if dim <= 64 and size < 64 else 1, 128, max_registers=255)
    if kernel == "gradients":
        if dim > 64:
            return Launch(8, 2, 32, max_registers=255)
        return Launch(4, 2, 16, 16, max_registers=255)  # more columns would spill
    return Launch(4, 2, 32, 16, max_registers=255)


TABLES: dict[str, Table] = {"linear": linear, "mlp": mlp}
