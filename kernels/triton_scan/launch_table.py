"""How each Triton kernel is launched: warps, pipeline stages, columns at a time, from one file per GPU.

Fixed files (launches/) instead of a race at run time: the same launch always does the same sums in the same
order, so that losses stay equal to the last bit over any number of ranks.
"""

import re
from dataclasses import replace
from functools import cache

import torch

from tttscale.kernels.triton_scan.launches import ampere, fp32, hopper
from tttscale.kernels.triton_scan.launches.launch import CHAINS, LARGEST_DIM, Launch

BLOCK_TOKENS = 64
"""Most tokens of a block of the parallel kernels, between two saved states."""
SIZES = (16, 32, 64)
FENCED_SINCE = (3, 7, 1)
"""Triton's version from which products on Hopper see all tiles that a loop copies ahead, see `launch_of`."""


def architecture_of(device: torch.device) -> int:
    """Whose launches a device takes: 80 (Ampere, Ada), 90 (Hopper and newer); 70 for what is older.

    Launches are checked for the shared memory of an A100 and an H100; GPUs of these generations that have
    less of it (consumer cards) may be refused by Triton at the first launch.
    """
    if device.type != "cuda":
        return 90
    generation = torch.cuda.get_device_capability(device)[0]
    return 70 if generation < 8 else 80 if generation < 9 else 90


def mini_batches_per_block(architecture: int, size: int, dtype: torch.dtype) -> int:
    """Mini-batches of a block, the same for all kernels of a scan.

    Half as many in fp32: products of 64 rows would fill more registers than there are, and the plain units
    are busy longest as it is; twice the tokens are a quarter more work for each (README.md).
    """
    tokens = BLOCK_TOKENS // (2 if dtype == torch.float32 else 1)
    return max(1, tokens // size)


def why_no_launch(architecture: int, dim: int, size: int, dtype: torch.dtype) -> str | None:
    """Why the table has nothing for a scan, as the rest of a sentence; None if it has."""
    if architecture < 80:
        return "needs a GPU of compute capability 8.0 or more"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"takes fp32 and bf16, not {str(dtype).removeprefix('torch.')}"
    if dim > LARGEST_DIM:
        return f"takes head dims up to {LARGEST_DIM}, not {dim}"
    if size not in SIZES:
        return f"takes mini-batches of 16, 32 or 64 tokens, not {size}"
    return None


@cache
def launch_of(
    architecture: int, kind: str, kernel: str, dim: int, size: int, dtype: torch.dtype
) -> Launch:
    """The launch of a kernel.

    Hopper's products (wgmma) read shared memory through another proxy than copies ahead (cp.async) write it
    through. Before 3.7.1 Triton leaves out the fence in between that PTX asks for, but not the one behind
    tiles that come by way of registers; so with such a version loops copy nothing ahead. But for TTT-Linear's
    chains, in which no such product reads what was copied (benchmarks/kernels_sm90_triton36.md).

    Args:
        architecture: 80 or 90, see `architecture_of`.
        kind: "linear" or "mlp".
        kernel: "advance", "readout", "readout_backward", "advance_backward", "gradients", ...
        dim: features per head.
        size: K.
        dtype: of the tokens.
    """
    file = fp32 if dtype == torch.float32 else ampere if architecture == 80 else hopper
    launch = file.launch(kind, kernel, dim, size)
    copies_for_products = file is hopper and not (kind == "linear" and kernel in CHAINS)
    if copies_for_products and triton_version() < FENCED_SINCE:
        launch = replace(launch, num_stages=1)
    return launch


@cache
def triton_version() -> tuple[int, ...]:
    """Major, minor and patch."""
    from triton import __version__  # not where nothing is launched: there may be none

    return tuple(map(int, re.findall(r"\d+", __version__)[:3]))
