"""A scan on compiled kernels that are run here.

    python -m benchmarks.ptx KIND DIM K DTYPE CAPABILITY TOKENS [waits] [copies]

Without TRITON_INTERPRET. Forward and backward; with `waits` once more, with neighbours that wait; with
`copies` as `Block.copies_are_fenced` has it. Scratch holds NaN until it is written. Prints one JSON object:
relative errors against fp64, whether both runs have the same bits (null for one), what ran.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from benchmarks.problems import Waiting, errors, on, problem, reference, results
from benchmarks.ptx.execute import Block
from benchmarks.ptx.launch import emulated
from tttscale.kernels import scan
from tttscale.kernels.triton_scan.linear.segment import TritonLinearScan
from tttscale.kernels.triton_scan.mlp.segment import TritonMLPScan

SCANS = {"linear": TritonLinearScan, "mlp": TritonMLPScan}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_MAKERS = (
    *((torch, name) for name in ("empty", "empty_like", "empty_strided")),
    (torch.Tensor, "new_empty"),
)


def poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Memory that holds NaN instead of whatever was there."""

    def filled(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = make(*args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    return filled


def run(
    kind: str, dim: int, size: int, dtype: str, capability: int, tokens: int, waits: bool
) -> dict[str, Any]:
    """Run a scan on compiled kernels; see above for what is found."""
    leaves = on("cpu", problem(kind, heads=1, dim=dim, tokens=tokens, size=size), DTYPES[dtype])
    began = time.perf_counter()
    scan_type = functools.partial(SCANS[kind], architecture=capability)
    with (
        emulated(capability) as device,
        mock.patch.object(scan, "_scan_type", return_value=scan_type),
    ):
        patches = [mock.patch.object(o, n, poisoned(getattr(o, n))) for o, n in _MAKERS]
        for patch in patches:
            patch.start()
        ours = results(kind, leaves, "triton")
        launches = list(device.launches)
        again = results(kind, leaves, "triton", hooks=Waiting()) if waits else None
        for patch in patches:
            patch.stop()
    return {
        "errors": errors(kind, ours, reference(kind, leaves)),
        "same_bits": again and all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)),
        "launches": launches,
        "seconds": round(time.perf_counter() - began, 1),
    }


if __name__ == "__main__":
    kind, dim, size, dtype, capability, tokens, *rest = sys.argv[1:]
    shape = kind, int(dim), int(size), dtype
    Block.copies_are_fenced = "copies" in rest
    print(json.dumps(run(*shape, int(capability), int(tokens), "waits" in rest)))
