"""Matrix products of CPU tensors: torch's own, or oneDNN's in strict fp32, twice as fast on some CPUs.

torch multiplies fp32 by MKL, at 40 % of what some cores can do. `mkldnn._linear_pointwise` is oneDNN's by way
of an operator that is fp32 whatever torch's precision flags and the machine's tiles (AMX) would allow. It is
private to torch, so it is used only where it passes `why_not`, and only after `use` was called.
"""

import torch
from torch import Tensor

WAYS = ("torch", "onednn")
_TOLERANCE = 2**-20
"""Largest error of a product, in units of the sum of its terms' sizes; bf16 and TF32 have 2^-10 or more."""
_SHAPES = ((64, 96, 80), (48, 257, 33), (300, 128, 2), (5, 1000, 259))
"""Rows, terms, columns."""

_way = "torch"


def use(way: str) -> None:
    """Take all further fp32 products on CPUs this way; all ranks of a job must take the same."""
    global _way
    assert way in WAYS
    _way = way


def used() -> str:
    """The way that products are taken now."""
    return _way


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b of [n, m] and [m, l], in their dtype.

    By oneDNN a row's bits do not depend on how many rows there are beside it. One row, or one column, would
    be another routine, whose sums even depend on where a matrix lies in memory: so it goes double.
    """
    if a.device.type != "cpu":
        return a @ b
    if a.shape[0] == 1:
        return product(a.expand(2, -1).contiguous(), b)[:1]
    if b.shape[1] == 1:
        return product(a, b.expand(-1, 2).contiguous())[:, :1]
    if _way == "onednn" and a.dtype == torch.float32 and a.numel() and b.numel():
        return _onednn(a, b)
    return a @ b


def product_over_tokens(a: Tensor, b: Tensor) -> Tensor:
    """a b of [n, T] and [T, m], where a is a transposed view: the gradient of a weight.

    oneDNN copies a into rows first. Where m is the smaller side, to copy b and the result is quicker.
    """
    rows, tokens, columns = *a.shape, b.shape[1]
    if a.device.type == "cpu" and _way == "onednn" and columns < min(rows, tokens):
        return product(b.t(), a.t()).t().contiguous()
    return product(a, b)


def laid_out_for_gradients(weight: Tensor) -> Tensor:
    """weight [n, m], copied once so that oneDNN need not turn it round in every product `grad @ weight`."""
    if weight.device.type == "cpu" and _way == "onednn" and weight.dtype == torch.float32:
        return weight.t().contiguous().t()
    return weight


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


def why_not() -> str | None:
    """Why oneDNN cannot be used here, as the rest of a sentence; None if it can."""
    generator = torch.Generator().manual_seed(0)
    try:
        for rows, terms, columns in _SHAPES:
            a = torch.randn(rows, terms, generator=generator)
            w = torch.randn(columns, terms, generator=generator)
            for b in (w.t(), w.t().contiguous()):
                whole = _onednn(a, b)
                if (problem := _problem(a, b, whole)) is not None:
                    return problem
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"is not in this torch ({str(error).splitlines()[0]:.80})"
    return None


def _problem(a: Tensor, b: Tensor, whole: Tensor) -> str | None:
    exact, sizes = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    if whole.dtype != torch.float32 or not ((whole - exact).abs() <= _TOLERANCE * sizes).all():
        return "is not exact to fp32 here"
    for rows in (2, len(a) // 2 + 1):
        if not torch.equal(_onednn(a[-rows:].clone(), b), whole[-rows:]):
            return "gives a row other digits beside other rows here"
    return None
