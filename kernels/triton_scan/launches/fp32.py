"""Launches for fp32 tokens, on all GPUs: products on the plain units fill the registers, so few columns.

Products and sums are not fused except in TTT-Linear's chains: on the plain units a thread may have one
product of a row's sum. Fused with the first addition it would be exact in that thread and rounded in the
others, which hold the same sum and store it to the same place: which of them came last would decide the last
bit (benchmarks/ptx finds it).
"""

from tttscale.kernels.learners import SERIAL_PHASES
from tttscale.kernels.triton_scan.launches.launch import LARGEST_DIM, Launch, Table


def linear(kernel: str, dim: int, size: int) -> Launch:
    """TTT-Linear's launches."""
    if kernel == "one_token":
        return _one_token(dim)
    if kernel not in SERIAL_PHASES:
        return _parallel(dim, size)
    if not _large(dim, size):
        return Launch(8, 1, 32 if kernel == "advance" else 64)
    rows = LARGEST_DIM if dim > 96 or (dim > 32 and size > 32) else 16
    return Launch(16, 1, rows, max_registers=128)


def mlp(kernel: str, dim: int, size: int) -> Launch:
    """TTT-MLP's launches."""
    if kernel == "one_token":
        return _one_token(dim)
    if kernel not in SERIAL_PHASES:
        return _parallel(dim, size)
    most = 255 if _large(dim, size) else None
    return Launch(8, 1, 16 if dim > 64 else 32, max_registers=most, fused=False)


def _parallel(dim: int, size: int) -> Launch:
    """Kernels that are parallel over blocks, the same for both learners."""
    if _large(dim, size):
        return Launch(16, 1, 16, max_registers=128, fused=False)
    return Launch(8, 1, 16, fused=False)


def _one_token(dim: int) -> Launch:
    """A program has one token of one head: what it reads of the state is all that there is to hide."""
    return Launch(8 if dim > 64 else 4, 1, 32, fused=False)


def _large(dim: int, size: int) -> bool:
    return dim > 64 or size > 16


TABLES: dict[str, Table] = {"linear": linear, "mlp": mlp}
