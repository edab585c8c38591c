"""What the Triton kernels give, interpreted, and the fp64 reference of the very same inputs."""

import torch

# fp32 products are exact there; bf16 operands are rounded to nearest by hand.
LARGEST_ERROR = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
LARGEST_ERROR_OF_TOKEN_IDX = 5e-6
"""In fp32: a place of token_idx is one sum over all tokens, most of which cancels (the torch backend: 3e-6).
What is left depends on the order in which a processor's BLAS adds."""


def narrow(p, dtype):
    """The problem's leaves as the kernels take them: tokens in dtype, everything else fp32."""
    dtypes = [dtype] * 3 + [torch.float32] * (len(p.leaves) - 3)
    return [x.detach().to(d).requires_grad_() for x, d in zip(p.leaves, dtypes, strict=True)]


def everything(p, leaves, **options):
    """Outputs, final state and all gradients."""
    results = p.scan(*leaves, **options)
    cotangents = [c.to(r.dtype) for c, r in zip(p.cotangents(results), results, strict=True)]
    return [*results, *torch.autograd.grad(results, leaves, cotangents)]


def exactly(p, leaves):
    """`everything` in fp64, of the very tokens and cotangents that the kernels get."""
    wide = [x.detach().double().requires_grad_() for x in leaves]
    results = p.scan(*wide)
    dtypes = [leaves[0].dtype, *(x.dtype for x in leaves[7:])]
    cotangents = [c.to(d).double() for c, d in zip(p.cotangents(results), dtypes, strict=True)]
    return [*results, *torch.autograd.grad(results, wide, cotangents)]


def relative(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm().clamp(min=1e-300)).item()


def assert_relatively_close(ours, exact, tolerance):
    """Of `everything`; all but token_idx's gradient within the tolerance."""
    errors = [relative(a, b) for a, b in zip(ours, exact, strict=True)]
    limits = [tolerance] * len(errors)
    states = (len(errors) - 8) // 2
    limits[1 + states + 4] = max(tolerance, LARGEST_ERROR_OF_TOKEN_IDX)
    close = [error <= limit for error, limit in zip(errors, limits, strict=True)]
    assert all(close), errors  # max would pass over a NaN
