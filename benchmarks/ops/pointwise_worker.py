"""The operators between the matrix products, run one way, in a process of its own; a row of JSON each.

Run as `python -m benchmarks.ops.pointwise_worker WHO DEVICE`. WHO: plain (call by call), compiled
(torch.compile), liger (liger-kernel's, for what it has, where it can be imported; needs a GPU).
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ops.pointwise import SIZES
from benchmarks.problems import milliseconds
from tttscale.bench import report
from tttscale.kernels.ops.pointwise import EAGER
from tttscale.model.layers import Rotary

EPS = 1e-6
HEAD_DIM, SIZE, TAPS = 64, 16, 4

Operator = Callable[..., Tensor]
Problem = tuple[list[Tensor], list[Any]]


def operators(who: str) -> dict[str, Operator]:
    """Name -> what is measured: a function of differentiable inputs and others, its last result."""
    if who == "liger":
        return _liger()
    run = EAGER if who == "plain" else EAGER.compiled()
    return {
        "norm": lambda x, w: run.norm(x[None], w, EPS, _narrow(x))[1],
        "add_norm": lambda x, y, w: run.add_norm(x[None], y[None], w, EPS, y.dtype)[1],
        "swiglu": lambda gate, up: run.swiglu(gate[None], up[None]),
        "gated_norm": lambda x, gate, w, b: run.gated_norm(x[None], gate[None], w, b),
        "queries_and_keys": lambda x, *rest: run.queries_and_keys(x[None], None, *rest)[1],
        "cross_entropy": lambda x, w, labels: run.cross_entropy(x, w, labels)[0],
    }


def _narrow(x: Tensor) -> torch.dtype:
    return torch.bfloat16 if x.is_cuda else x.dtype


def _liger() -> dict[str, Operator]:
    from liger_kernel.transformers import functional  # type: ignore

    def loss(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        fused = functional.liger_fused_linear_cross_entropy
        return fused(x, weight.to(x.dtype), labels, reduction="sum", accum_dtype=torch.float32)

    return {
        "norm": lambda x, w: functional.liger_rms_norm(x, w, EPS, in_place=False),
        "swiglu": functional.liger_swiglu,
        "cross_entropy": loss,
    }


def problems(device: str) -> dict[str, Problem]:
    """Name -> (differentiable inputs, others). The residual stream and parameters are fp32."""
    tokens, width, hidden, vocabulary = SIZES[device]
    generator = torch.Generator(device).manual_seed(0)
    compute = torch.bfloat16 if device == "cuda" else torch.float32

    def leaf(*shape: int, scale: float = 1.0, of: torch.dtype = torch.float32) -> Tensor:
        x = scale * torch.randn(*shape, generator=generator, device=device)
        return x.to(of).requires_grad_()

    def of_tokens(features: int) -> Tensor:
        return leaf(tokens, features, of=compute)

    filters = [leaf(*shape) for shape in ((width, 1, TAPS), (width,)) * 2]
    padded = leaf(tokens + TAPS - 1, width, of=compute)
    turns = Rotary(HEAD_DIM, SIZE, 1e4).tables(padded)
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator, device=device)
    head = leaf(vocabulary, width, scale=0.02)
    return {
        "norm": ([leaf(tokens, width), leaf(width)], []),
        "add_norm": ([leaf(tokens, width), of_tokens(width), leaf(width)], []),
        "swiglu": ([of_tokens(hidden), of_tokens(hidden)], []),
        "gated_norm": ([of_tokens(width), of_tokens(width), leaf(width), leaf(width)], []),
        "queries_and_keys": ([padded, *filters], [*turns]),
        "cross_entropy": ([of_tokens(width), head], [labels]),
    }


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, EPS)


def _keys(
    padded: Tensor, qw: Tensor, qb: Tensor, kw: Tensor, kb: Tensor, cos: Any, sin: Any
) -> Tensor:
    x = F.conv1d(padded.t()[None], kw, kb, groups=kw.shape[0]).transpose(1, 2)
    x = x.unflatten(-1, (-1, HEAD_DIM))
    at = torch.arange(x.shape[1], device=x.device) % SIZE
    a, b, cos, sin = x[..., ::2], x[..., 1::2], cos[at, None, ::2], sin[at, None, 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


_EXACT: dict[str, Operator] = {
    "norm": _rms,
    "add_norm": lambda x, y, w: _rms(x + y, w),
    "swiglu": lambda gate, up: F.silu(gate) * up,
    "gated_norm": lambda x, gate, w, b: (
        F.layer_norm(x, (x.shape[-1],), w, b, EPS) * F.gelu(gate, approximate="tanh")
    ),
    "queries_and_keys": _keys,
    "cross_entropy": lambda x, w, labels: F.cross_entropy(x @ w.t(), labels, reduction="sum"),
}


def error(name: str, operator: Operator, leaves: list[Tensor], others: list[Any]) -> float:
    """Worst relative error of the output and the gradients against fp64, on the first tokens."""

    def results(run: Operator, inputs: list[Tensor], rest: list[Any]) -> list[Tensor]:
        """The output and the gradients of all inputs that want one."""
        out = run(*inputs, *rest)
        cotangent = torch.linspace(0.5, 1.5, out.numel(), device=out.device, dtype=torch.float64)
        wanted = [x for x in inputs if x.requires_grad]
        grads = torch.autograd.grad(
            out, wanted, cotangent.view_as(out).to(out.dtype), materialize_grads=True
        )
        return [out.detach(), *grads]

    tokens, few = leaves[0].shape[0], 512
    cut = [(x[: few + x.shape[0] - tokens] if x.shape[0] >= tokens else x) for x in leaves]
    cut = [x.detach().requires_grad_() for x in cut]
    rest = [x[:few] if x.dtype == torch.int64 else x for x in others]
    wide = [x.detach().double().requires_grad_() for x in cut]
    exact_rest = [x if x.dtype == torch.int64 else x.double() for x in rest]
    ours, theirs = results(operator, cut, rest), results(_EXACT[name], wide, exact_rest)
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if b.any():  # q's parameters have no part in k
            worst = max(worst, ((a.double() - b.view_as(a)).norm() / b.norm()).item())
    return worst


def measure(who: str, device: str) -> Iterator[dict[str, Any]]:
    """One row per operator."""
    for name, operator in operators(who).items():
        leaves, others = problems(device)[name]
        began = time.perf_counter()
        d_out = torch.ones_like(operator(*leaves, *others))

        def both(
            operator: Operator = operator,
            inputs: list[Tensor] = leaves,
            rest: list[Any] = others,
            cotangent: Tensor = d_out,
        ) -> None:
            """Forward and backward."""
            torch.autograd.grad(operator(*inputs, *rest), inputs, cotangent, allow_unused=True)

        both()
        first_seconds = time.perf_counter() - began
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        taken = milliseconds(both, device)
        peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else None
        row = {"operator": name, "who": who, "ms": taken, "peak_bytes": peak}
        row["error"] = error(name, operator, leaves, others)
        yield {**row, "first_call_seconds": first_seconds}


if __name__ == "__main__":
    for found in measure(sys.argv[1], sys.argv[2]):
        report.emit(found)
