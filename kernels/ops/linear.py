"""Products of tokens with parameters: operands in the compute dtype, gradients of parameters in fp32."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tttscale.kernels.ops.compiled_op import compiled, form_again, source_of
from tttscale.kernels.ops.cpu_product import product, product_over_tokens
from tttscale.kernels.precision import wide_dtype, widened, without_autocast


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which products of x are taken: autocast's where it is on, else x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _CastCache(threading.local):
    copies: dict[tuple[nn.Parameter, torch.dtype], Tensor] | None = None


_cache = _CastCache()


@contextmanager
def cast_cache() -> Iterator[None]:
    """Cast each parameter once inside this context, not for every chunk; nothing may change one there."""
    _cache.copies = {}
    try:
        yield
    finally:
        _cache.copies = None


def cached_cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """weight in dtype, without a graph; the same tensor again inside `cast_cache`."""
    if _cache.copies is None or not isinstance(weight, nn.Parameter) or weight.dtype == dtype:
        return weight.detach().to(dtype)
    key = weight, dtype
    if key not in _cache.copies:
        _cache.copies[key] = weight.detach().to(dtype)
    return _cache.copies[key]


@without_autocast
def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a b of [n, m] and [m, l], summed and returned in fp32 (fp64 for fp64)."""
    wide = wide_dtype(a.dtype)
    if a.is_cuda and a.dtype != wide:
        return torch.mm(a, b, out_dtype=wide)
    return product_over_tokens(a.to(wide), b.to(wide))


def total(*parts: Tensor) -> Tensor:
    """Their sum, rounded once."""
    dtype = parts[0].dtype
    out = widened(parts[0])
    for part in parts[1:]:
        out = out + part
    return out.to(dtype)


class MultiLinear:
    """x W^T for one or several W, whose gradients at x are summed in one pass."""

    def __init__(self, add: Callable[..., Tensor] = total) -> None:
        self.add = add

    def compiled(self) -> "MultiLinear":
        """With that sum through torch.compile."""
        return MultiLinear(compiled(self.add))

    def __call__(self, x: Tensor, *weights: Tensor) -> Any:
        """[..., D] with [N, D] each -> [..., N] in the compute dtype; a tensor, or a tuple of several."""
        x = x.to(compute_dtype(x))
        if torch.is_grad_enabled():
            outs = _MultiLinear.apply(self.add, source_of(x), x, *weights)
        else:
            outs = _products(x, [cached_cast(weight, x.dtype) for weight in weights])
        return outs if len(outs) > 1 else outs[0]


@without_autocast
def _products(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """x W^T of each, all in x's dtype."""
    rows = x.flatten(0, -2)
    outs = (product(rows, weight.t()) for weight in weights)
    return tuple(out.view(*x.shape[:-1], -1) for out in outs)


class _MultiLinear(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, add: Any, source: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """Keeps x, or its source, and the copies of the weights, which the chunks of a sweep share."""
        ctx.copies = [cached_cast(w, x.dtype) for w in weights]
        ctx.add, ctx.source, ctx.dtypes = add, source, [w.dtype for w in weights]
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.save_for_backward(x if source is None else None)
        return _products(x, ctx.copies)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the weights."""
        d_x, copies, d_rows = None, ctx.copies, [grad.flatten(0, -2) for grad in grads]
        _, _, wants_x, *wanted = ctx.needs_input_grad
        if wants_x:
            parts = [product(grad, copy) for grad, copy in zip(d_rows, copies, strict=True)]
            d_x = (ctx.add(*parts) if len(parts) > 1 else parts[0]).view(ctx.shape)
        d_weights: list[Tensor | None] = [None] * len(grads)
        if any(wanted):
            (x,) = ctx.saved_tensors
            rows = (form_again(ctx.source, ctx.dtype) if x is None else x).flatten(0, -2)
            for i in (i for i, wants in enumerate(wanted) if wants):
                d_weights[i] = matmul_fp32(d_rows[i].t(), rows).to(ctx.dtypes[i])
        return None, None, d_x, *d_weights


def embedded(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows `ids` of weight [V, D] in fp32 or wider, as the residual stream begins; ids of any shape."""
    return _Embedded.apply(ids, weight)


class _Embedded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        """Keeps the ids."""
        ctx.save_for_backward(ids)
        ctx.rows, ctx.dtype = weight.shape[0], weight.dtype
        return widened(torch.nn.functional.embedding(ids, weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        """Tokens of one id are summed wide, and rounded once."""
        (ids,) = ctx.saved_tensors
        summed = torch.ops.aten.embedding_dense_backward(grad, ids, ctx.rows, -1, False)
        return None, summed.to(ctx.dtype)
