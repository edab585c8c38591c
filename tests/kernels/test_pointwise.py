"""The operators between products: against torch's own and autograd in fp64, their dtypes, and compiled."""

import os
import shutil

import pytest
import torch
from torch.nn import functional as F

from tests.kernels.problem import assert_close
from tttscale.kernels.ops import linear
from tttscale.kernels.ops.linear import MultiLinear, cast_cache, compute_dtype, matmul_fp32
from tttscale.kernels.ops.pointwise import EAGER

EPS = 1e-6
TOKENS, DIM, SIZE = 21, 8, 4


def normal(*shape, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def turns(sign=1):
    """cos and signed sin of two heads' features at K positions."""
    angles = normal(SIZE, DIM // 4, seed=9, grad=False).repeat_interleave(2, -1)
    sin = sign * angles.sin()
    sin[:, ::2] *= -1
    return angles.cos(), sin


def rms_norm(x, weight, eps, dtype):
    return x, (weight * F.rms_norm(x, (DIM,), eps=eps)).to(dtype)


def gated_norm(x, gate, weight, bias):
    return F.layer_norm(x, (DIM,), weight, bias, 1e-6) * F.gelu(gate, approximate="tanh")


def causal_conv(padded, rows, weight, bias):
    out = F.conv1d(padded.transpose(1, 2), weight, bias, groups=DIM).transpose(1, 2)
    return out if rows is None else out[:, rows]


def rotary(x, cos, sin):
    """By complex numbers: adjacent pairs, positions modulo K."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    factors = torch.complex(cos[:, ::2], sin[:, 1::2]).repeat(-(-x.shape[1] // SIZE), 1)
    factors = factors[: x.shape[1]].unsqueeze(1)
    return torch.view_as_real(pairs * factors).flatten(-2)


def queries_and_keys(padded, rows, qw, qb, kw, kb, cos, sin):
    both = (causal_conv(padded, rows, w, b) for w, b in ((qw, qb), (kw, kb)))
    return tuple(rotary(x.unflatten(-1, (2, -1)), cos, sin) for x in both)


ROWS = torch.tensor([0, 1, 2, 6, 7, 8, 9, 13])
"""Outputs that belong to tokens, of documents of 3, 4 and more tokens."""


def inputs(name, tokens=TOKENS, dtype=torch.float64):
    x, y, weight, bias = (
        normal(2, tokens, DIM),
        normal(2, tokens, DIM, seed=1),
        *normal(2, DIM, seed=2),
    )
    weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
    padded = normal(2, tokens + 3, DIM, seed=3)
    filters = [normal(DIM, 1, 4, seed=4), bias, normal(DIM, 1, 4, seed=5), weight]
    return {
        "norm": (x, weight, EPS, dtype),
        "add_norm": (x, y, weight, EPS, dtype),
        "swiglu": (x, y),
        "gated_norm": (x, y, weight, bias),
        "causal_conv": (padded, None, *filters[:2]),
        "causal_conv rows": (padded, ROWS, *filters[:2]),
        "queries_and_keys": (padded, None, *filters, *turns()),
        "queries_and_keys rows": (padded, ROWS, *filters, *turns()),
        "rotary": (x.unflatten(-1, (2, -1)).detach().requires_grad_(), *turns()),
    }[name]


DEFINITIONS = {
    "norm": rms_norm,
    "add_norm": lambda x, y, *wanted: rms_norm(x + y, *wanted),
    "swiglu": lambda gate, up: F.silu(gate) * up,
    "gated_norm": gated_norm,
    "causal_conv": causal_conv,
    "causal_conv rows": causal_conv,
    "queries_and_keys": queries_and_keys,
    "queries_and_keys rows": queries_and_keys,
    "rotary": rotary,
}


def everything(function, arguments):
    """Outputs, and the gradients of all inputs that want one."""
    outs = function(*arguments)
    outs = outs if isinstance(outs, tuple) else (outs,)
    leaves = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    # Numbers that bf16 holds too.
    d_outs = [normal(*out.shape, seed=7, grad=False).bfloat16().to(out.dtype) for out in outs]
    return [*outs, *torch.autograd.grad(outs, leaves, d_outs)]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_operators_equal_their_definitions(name):
    arguments = inputs(name)
    ours = everything(getattr(EAGER, name.split()[0]), arguments)
    assert_close(ours, everything(DEFINITIONS[name], arguments), 1e-13)


def narrow(arguments):
    """bf16 tokens and fp32 parameters, as under autocast."""
    out = []
    for x in arguments:
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            is_tokens = x.dim() >= 3 and x.shape[1] > 1
            dtype = torch.bfloat16 if is_tokens else torch.float32
            x = x.detach().to(dtype).requires_grad_(x.requires_grad)
        out.append(torch.bfloat16 if x is torch.float64 else x)
    return out


@pytest.mark.parametrize("name", DEFINITIONS)
def test_bf16_tokens_are_rounded_once(name):
    """Each result is the exact one of the same inputs, rounded, to a few fp32 roundings."""
    arguments = narrow(inputs(name))
    if "norm" in name and name != "gated_norm":  # the residual stream is fp32
        arguments[0] = arguments[0].detach().float().requires_grad_()
    ours = everything(getattr(EAGER, name.split()[0]), arguments)
    exact = [
        x.detach().double().requires_grad_(x.requires_grad)
        if isinstance(x, torch.Tensor) and x.is_floating_point()
        else torch.float64
        if x is torch.bfloat16
        else x
        for x in arguments
    ]
    for got, wanted in zip(ours, everything(DEFINITIONS[name], exact), strict=True):
        half_a_place = 2**-8 if got.dtype == torch.bfloat16 else 0
        assert ((got - wanted).abs() <= (half_a_place + 1e-5) * wanted.abs() + 1e-5).all()
    leaves = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    assert [g.dtype for g in ours[-len(leaves) :]] == [x.dtype for x in leaves]


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_compiled_operators_equal_the_plain_ones_at_every_length():
    compiled = EAGER.compiled()
    for name in DEFINITIONS:
        operator, plain = (getattr(o, name.split()[0]) for o in (compiled, EAGER))
        for tokens in (TOKENS, 2 * TOKENS, 15):
            arguments = inputs(name, tokens)
            ours = everything(operator, arguments)
            assert_close(ours, everything(plain, arguments), 1e-13)
            with torch.no_grad():
                again = operator(*arguments)
            again = again if isinstance(again, tuple) else (again,)
            assert all(torch.equal(a, b) for a, b in zip(again, ours, strict=False))


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_one_compilation_serves_all_lengths_with_and_without_a_graph():
    torch._dynamo.utils.counters.clear()
    swiglu = type(EAGER.swiglu)(
        lambda gate, up: EAGER.swiglu.forward(gate, up),
        lambda saved, grads: EAGER.swiglu.backward(saved, grads),
    ).compiled()
    for tokens in (40, 24, 11, 64):
        arguments = inputs("swiglu", tokens)
        everything(swiglu, arguments)
        with torch.no_grad():
            swiglu(*arguments)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


# ---- products ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_products_and_their_gradients(count):
    x, weights = normal(2, 5, DIM), [normal(3 + i, DIM, seed=i) for i in range(count)]
    ours = everything(EAGER.linear, (x, *weights))
    theirs = everything(lambda x, *ws: tuple(F.linear(x, w) for w in ws), (x, *weights))
    assert_close(ours, theirs, 1e-13)


def test_products_ask_for_no_gradient_that_nobody_wants():
    x, weight = normal(2, 5, DIM, grad=False), normal(3, DIM)
    out = EAGER.linear(x, weight)
    (grad,) = torch.autograd.grad(out.sum(), weight)
    assert_close([grad], [x.sum((0, 1)).expand(3, DIM)], 1e-13)
    weight.requires_grad_(False)
    assert not EAGER.linear(x, weight).requires_grad


def test_products_under_autocast_are_those_of_bf16_with_fp32_gradients_of_parameters():
    x = normal(1, 6, DIM).detach().float().requires_grad_()
    weights = [normal(3, DIM, seed=s).detach().float().requires_grad_() for s in (1, 2)]
    assert compute_dtype(x) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(x) == torch.bfloat16
        outs = EAGER.linear(x, *weights)
    wanted = [x.bfloat16() @ w.bfloat16().t() for w in weights]
    assert all(torch.equal(a, b) for a, b in zip(outs, wanted, strict=True))
    grads = torch.autograd.grad([o.float().square().sum() for o in outs], (x, *weights))
    assert {g.dtype for g in grads} == {torch.float32}


def test_gradients_of_several_products_are_rounded_once_together():
    x = normal(1, 6, DIM).detach().bfloat16().requires_grad_()
    weights = [normal(3, DIM, seed=s).detach().bfloat16() for s in range(3)]
    outs = EAGER.linear(x, *weights)
    (grad,) = torch.autograd.grad(outs, x, [torch.ones_like(o) for o in outs])
    parts = [torch.ones_like(o) @ w for o, w in zip(outs, weights, strict=True)]
    assert torch.equal(grad, sum(p.float() for p in parts).bfloat16())


def test_wide_product_of_cpu_tensors():
    a, b = (normal(4, 4, seed=s, grad=False) for s in (0, 1))
    assert matmul_fp32(a, b).dtype == torch.float64
    assert matmul_fp32(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def test_parameters_are_cast_once_where_copies_are_held():
    weight, x = torch.nn.Parameter(torch.ones(2, 3)), torch.ones(1, 1, 3, dtype=torch.bfloat16)
    with cast_cache():
        copy = linear.cached_cast(weight, torch.bfloat16)
        assert linear.cached_cast(weight, torch.bfloat16) is copy
        assert linear.cached_cast(weight[:1], torch.bfloat16) is not linear.cached_cast(
            weight[:1], torch.bfloat16
        )
    with torch.no_grad():
        weight.mul_(2)
    assert linear.cached_cast(weight, torch.bfloat16).eq(2).all()
    with cast_cache():
        assert MultiLinear()(x, weight).eq(6).all()
