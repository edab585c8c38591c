"""How each Triton kernel is launched: warps, pipeline stages, columns at a time, from one file per GPU.

Fixed tables (launches/) instead of autotuning at run time: the same launch always does the same sums in the
same order, so that losses stay equal to the last bit over any number of ranks.
"""

import re
from dataclasses import replace
from functools import cache

import torch

from tttscale.kernels.triton_scan.launches import ampere, fp32, hopper
from tttscale.kernels.triton_scan.launches.launch import LARGEST_DIM, Launch

BLOCK_TOKENS = 64
"""Most tokens of a block of mini-batches, between two saved states. Not a CUDA block: one program (CTA) of a
parallel kernel takes one such block of one head."""
SIZES = (16, 32, 64)
FENCED_SINCE = (3, 7, 1)
"""Triton's version from which products on Hopper see all tiles that a loop copies ahead; see `launch_of`."""


def architecture_of(device: torch.device) -> int:
    """Name the table that a device takes: 80 (Ampere, Ada), 90 (Hopper and newer); 70 for anything older.

    Launches are checked for the shared memory of an A100 and an H100; GPUs of these generations that have
    less of it (consumer cards) may be refused by Triton at the first launch.
    """
    if device.type != "cuda":
        return 90
    generation = torch.cuda.get_device_capability(device)[0]
    return 70 if generation < 8 else 80 if generation < 9 else 90


def mini_batches_per_block(architecture: int, size: int, dtype: torch.dtype) -> int:
    """Count the mini-batches of a block, the same for all kernels of a scan.

    Half as many in fp32: products of 64 rows would fill more registers than there are, and the FMA units are
    the bottleneck as it is; twice the tokens are a quarter more instructions for each (../README.md).
    """
    tokens = BLOCK_TOKENS // (2 if dtype == torch.float32 else 1)
    return max(1, tokens // size)


def why_no_launch(architecture: int, dim: int, size: int, dtype: torch.dtype) -> str | None:
    """Say why the tables have no launch for a scan, as the rest of a sentence; None if they have one."""
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
    """Look up the launch of a kernel.

    Hopper's tensor-core products (wgmma) read shared memory through another proxy than asynchronous copies
    (cp.async) write it through. Before 3.7.1 Triton leaves out the fence between the two that PTX asks for
    (though not the one after tiles that come by way of registers), so with such a version loops copy nothing
    ahead. TTT-Linear's chains are an exception: no such product there reads what was copied
    (`Launch.reads_copies`; benchmarks/kernels_sm90_triton36.md).

    Args:
        architecture: 80 or 90, see `architecture_of`.
        kind: name of the learner.
        kernel: "advance", "readout", "readout_backward", "advance_backward", "gradients", ...
        dim: features per head.
        size: K.
        dtype: of the tokens.
    """
    file = fp32 if dtype == torch.float32 else ampere if architecture == 80 else hopper
    launch = file.TABLES[kind](kernel, dim, size)
    if file is hopper and launch.reads_copies and triton_version() < FENCED_SINCE:
        launch = replace(launch, num_stages=1)
    return launch


@cache
def triton_version() -> tuple[int, ...]:
    """Major, minor and patch."""
    from triton import __version__  # not where nothing is launched: there may be none

    return tuple(map(int, re.findall(r"\d+", __version__)[:3]))
