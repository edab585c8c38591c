"""Tokens of generation on compiled kernels that are run here.

    python -m benchmarks.ptx.one_token KIND DIM CAPABILITY

Without TRITON_INTERPRET. Two rows and heads, two tokens: the first of a mini-batch, and one with sums, for
which the rows are at places of their own. What is written holds NaN before. Prints one JSON object: the
largest error of outputs and sums, relative to the largest number of each against fp64, and what ran.
"""

import json
import sys
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch

from benchmarks.ptx.__main__ import poisoned
from benchmarks.ptx.launch import emulated
from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.torch_scan import one_token as plain
from tttscale.kernels.triton_scan import one_token as compiled

_ROWS, _HEADS, _PLACES = 2, 2, 4


def run(kind: str, dim: int, capability: int) -> dict[str, Any]:
    """Run two tokens; see above for what is found."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        """Random numbers, always the same."""
        return torch.randn(shape, generator=generator)

    weight, bias = 1 + 0.3 * normal(_HEADS, dim), 0.3 * normal(_HEADS, dim)
    shapes = LEARNERS[kind].state_shapes(_ROWS, _HEADS, dim)
    state = tuple(0.8 * dim**-0.5 * normal(*shape) for shape in shapes)
    tau, worst = normal(_PLACES).abs() / 4, 0.0
    ours = exact = None
    with emulated(capability) as device, ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "empty", poisoned(torch.empty)))
        for at in (tau[:1], tau[[1, 3]]):
            q, k, v = (normal(_ROWS, _HEADS, dim) for _ in range(3))
            lr = normal(_ROWS, _HEADS).sigmoid() / dim
            out, ours = compiled.one_token(
                kind, q, k, v, lr, at, weight, bias, state, ours, capability
            )
            q, k, v, lr, at = (x.double() for x in (q, k, v, lr, at))
            wide = tuple(w.double() for w in state)
            wanted, exact = plain.one_token(
                kind, q, k, v, lr, at, weight.double(), bias.double(), wide, exact
            )
            pairs = zip((out, *ours), (wanted, *exact), strict=True)
            worst = max(worst, *(_error(a, b) for a, b in pairs))
    return {"error": worst, "launches": list(device.launches)}


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error relative to the largest number, at least 1; infinite for NaN."""
    error = ((found - exact).abs().max() / exact.abs().max().clamp(min=1)).item()
    return error if error == error else float("inf")


if __name__ == "__main__":
    kind, dim, capability = sys.argv[1:]
    print(json.dumps(run(kind, int(dim), int(capability))))
