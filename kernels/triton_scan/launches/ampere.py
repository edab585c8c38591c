"""Launches for GPUs of compute capability 8.0 (A100), and others of 8.x.

Chosen by what the compiler makes of them (benchmarks/kernels_sm80.md), never timed. The parallel kernels:
one warp for 16 rows of a block, so that none does another's products again.
"""

from tttscale.kernels.triton_scan.launches.launch import CHAINS, Launch


def launch(kind: str, kernel: str, dim: int, size: int) -> Launch:
    """The launch of a kernel for bf16 tokens."""
    most = 255 if size > 32 else None
    if kernel in CHAINS and kind == "linear":
        return Launch(4 if dim * size <= 64 * 16 or dim <= 32 else 8, 2, 32, max_registers=most)
    if kernel == "advance":
        return Launch(8, 2, 64 if dim > 64 and size > 16 else 128, max_registers=most)
    if kernel == "advance_backward":
        return Launch(8, 2 if dim <= 64 and size < 64 else 1, 128, max_registers=255)
    if dim > 64 and (kernel == "gradients" or (kind, kernel) == ("linear", "readout_backward")):
        return Launch(8, 2, 32, max_registers=255)  # the rest would spill
    columns = 16 if kind == "mlp" and kernel == "gradients" else 32  # more would spill
    return Launch(4, 2, columns, 16, max_registers=255)
