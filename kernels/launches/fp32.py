"""Launches for fp32 tokens, on all GPUs: products on the plain units fill the registers, so few columns.

Not fused but for TTT-Linear's chains: on the plain units a thread may have one product of a row's sum. Fused
with the first addition it would be exact in that thread and rounded in the others, which hold the same sum
and store it to the same place: which of them came last would decide the last bit (benchmarks/ptx finds it).
"""

from tttscale.kernels.launches.launch import CHAINS, LARGEST_DIM, Launch


def launch(kind: str, kernel: str, dim: int, size: int) -> Launch:
    """The launch of a kernel for fp32 tokens."""
    large = dim > 64 or size > 16
    if kernel in CHAINS and kind == "linear":
        if not large:
            return Launch(8, 1, 32 if kernel == "advance" else 64)
        rows = LARGEST_DIM if dim > 96 or (dim > 32 and size > 32) else 16
        return Launch(16, 1, rows, max_registers=128)
    if kernel in CHAINS:
        most = 255 if large else None
        return Launch(8, 1, 16 if dim > 64 else 32, max_registers=most, fused=False)
    if large:
        return Launch(16, 1, 16, max_registers=128, fused=False)
    return Launch(8, 1, 16, fused=False)
