"""Launches for fp32 tokens, on all GPUs: products on the plain units fill the registers, so few columns."""

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
        return Launch(8, 1, 16 if dim > 64 else 32, max_registers=255 if large else None)
    return Launch(16, 1, 16, max_registers=128) if large else Launch(8, 1, 16)
