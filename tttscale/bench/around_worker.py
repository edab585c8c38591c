"""What surrounds the scan, measured one way, in a process of its own; one JSON list.

Run as `python -m tttscale.bench.around_worker WHO DEVICE`. WHO: ours (what the model runs), compiled
(torch.compile of plain torch), liger (liger-kernel's Triton kernels, where it can be imported; needs a GPU).
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tttscale.bench.around import SIZES
from tttscale.bench.problems import milliseconds
from tttscale.kernels.cross_entropy import cross_entropy_sum
from tttscale.model.layers import gated, rms_normalised

EPS = 1e-6

Operator = Callable[..., Tensor]


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """As the model has it."""
    return rms_normalised(x, weight, EPS)


def plain_loss(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """All logits at once."""
    return F.cross_entropy(F.linear(x, weight.to(x.dtype)).float(), labels, reduction="sum")


def sliced_loss(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """As the model has it."""
    return cross_entropy_sum(x, weight, labels)[0]


def operators(who: str) -> dict[str, Operator]:
    """Name -> what is measured."""
    if who == "ours":
        return {"rms_norm": rms_norm, "swiglu": gated, "cross_entropy": sliced_loss}
    if who == "compiled":
        plain = {"rms_norm": rms_norm, "swiglu": gated, "cross_entropy": plain_loss}
        return {name: torch.compile(function) for name, function in plain.items()}
    from liger_kernel.transformers import functional  # type: ignore

    def liger_loss(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        loss = functional.liger_fused_linear_cross_entropy
        return loss(x, weight.to(x.dtype), labels, reduction="sum", accum_dtype=torch.float32)

    return {
        "rms_norm": lambda x, w: functional.liger_rms_norm(x, w, EPS, in_place=False),
        "swiglu": functional.liger_swiglu,
        "cross_entropy": liger_loss,
    }


def problems(device: str) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Name -> (differentiable inputs, others). Tokens in the compute dtype, parameters in fp32."""
    tokens, width, hidden, vocabulary = SIZES[device]
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def leaf(*shape: int, scale: float = 1.0, of: torch.dtype = dtype) -> Tensor:
        x = scale * torch.randn(*shape, generator=generator)
        return x.to(device=device, dtype=of).requires_grad_()

    labels = torch.randint(0, vocabulary, (tokens,), generator=generator).to(device)
    return {
        "rms_norm": ([leaf(tokens, width), leaf(width, of=torch.float32)], []),
        "swiglu": ([leaf(tokens, hidden), leaf(tokens, hidden)], []),
        "cross_entropy": (
            [leaf(tokens, width), leaf(vocabulary, width, scale=0.02, of=torch.float32)],
            [labels],
        ),
    }


_EXACT: dict[str, Operator] = {
    "rms_norm": lambda x, w: w * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS),
    "swiglu": gated,
    "cross_entropy": lambda x, w, labels: F.cross_entropy(x @ w.t(), labels, reduction="sum"),
}


def error(name: str, operator: Operator, leaves: list[Tensor], others: list[Tensor]) -> float:
    """Worst relative error of the output and the gradients against fp64, on the first 512 tokens."""

    def results(run: Operator, inputs: list[Tensor], rest: list[Tensor]) -> list[Tensor]:
        out = run(*inputs, *rest)
        cotangent = torch.linspace(0.5, 1.5, out.numel(), device=out.device, dtype=torch.float64)
        grads = torch.autograd.grad(out, inputs, cotangent.view_as(out).to(out.dtype))
        return [out.detach(), *grads]

    tokens = leaves[0].shape[0]
    few = [(x[:512] if x.shape[0] == tokens else x).detach().requires_grad_() for x in leaves]
    rest = [x[:512] for x in others]
    wide = [x.detach().double().requires_grad_() for x in few]
    pairs = zip(results(operator, few, rest), results(_EXACT[name], wide, rest), strict=True)
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)


def measure(who: str, device: str) -> list[dict[str, Any]]:
    """One row per operator."""
    rows = []
    for name, (leaves, others) in problems(device).items():
        began = time.perf_counter()
        operator = operators(who)[name]
        d_out = torch.ones_like(operator(*leaves, *others))

        def both(
            operator: Operator = operator,
            inputs: list[Tensor] = leaves,
            rest: list[Tensor] = others,
            cotangent: Tensor = d_out,
        ) -> None:
            """Forward and backward."""
            torch.autograd.grad(operator(*inputs, *rest), inputs, cotangent)

        both()
        first_seconds = time.perf_counter() - began
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        taken = milliseconds(both, device)
        peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else None
        row = {"operator": name, "who": who, "ms": taken, "peak_bytes": peak}
        row["error"] = error(name, operator, leaves, others)
        rows.append({**row, "first_call_seconds": first_seconds})
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2])))
