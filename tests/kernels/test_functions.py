"""The smaller kernels against torch's own operators and autograd, in fp64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.kernels.problem import assert_close
from tttscale.kernels.ops import cross_entropy
from tttscale.kernels.ops.cross_entropy import CrossEntropy
from tttscale.kernels.torch_scan.gelu import gelu, gelu_and_slope, slope_and_curvature
from tttscale.kernels.torch_scan.inner_loss import Jacobian, Target, gradient
from tttscale.kernels.torch_scan.minibatch import Rates, from_minibatches, to_minibatches


def normal(*shape, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


# ---- cross-entropy -----------------------------------------------------------------------------


def head(tokens=11, width=6, vocab=9):
    labels = torch.arange(tokens) % vocab
    labels[[0, 4, 5]] = -100
    return normal(tokens, width), normal(vocab, width, seed=1), labels


@pytest.mark.parametrize("slice_tokens", [1, 3, 11, 1024])
def test_cross_entropy_by_slices(slice_tokens):
    x, weight, labels = head()
    total, losses = CrossEntropy(slice_tokens)(x, weight, labels)
    theirs = F.cross_entropy(x @ weight.t(), labels, reduction="none", ignore_index=-100)
    assert_close([total, losses], [theirs.sum(), theirs], 1e-13)
    assert not losses.requires_grad
    grads = torch.autograd.grad(0.3 * total, (x, weight))
    assert_close(grads, torch.autograd.grad(0.3 * theirs.sum(), (x, weight)), 1e-13)


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_cross_entropy_gives_one_gradient_alone(wanted):
    x, weight, labels = head()
    both = torch.autograd.grad(CrossEntropy(4)(x, weight, labels)[0], (x, weight))
    leaf = x if wanted == "x" else weight
    (weight if wanted == "x" else x).requires_grad_(False)
    (grad,) = torch.autograd.grad(CrossEntropy(4)(x, weight, labels)[0], leaf)
    assert torch.equal(grad, both[0 if wanted == "x" else 1])


def test_cross_entropy_without_grad_forms_no_gradients(monkeypatch):
    x, weight, labels = head()
    wanted = CrossEntropy(4)(x, weight, labels)
    gradient = "_losses_and_gradient_in_place"
    monkeypatch.setattr(cross_entropy, gradient, lambda *_: pytest.fail("formed a gradient"))
    with torch.no_grad():
        total, losses = CrossEntropy(4)(x, weight, labels)
    assert torch.equal(total, wanted[0])
    assert torch.equal(losses, wanted[1])
    assert not total.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [0, 3])
def test_cross_entropy_in_place_has_the_bits_of_the_losses_alone(dtype, masked):
    """What the forward sweep reports and what the backward sweep forms again are one number."""
    logits = (20 * torch.randn(1, 40, 300, generator=torch.Generator().manual_seed(0))).to(dtype)
    labels = torch.arange(40).unsqueeze(0) * 7
    labels[0, :masked] = -100
    alone = cross_entropy._losses(logits, labels)
    compiles, expected = cross_entropy._losses_and_gradient(logits, labels)
    found, grad = cross_entropy._losses_and_gradient_in_place(logits.clone(), labels)
    assert torch.equal(found, alone)
    assert torch.equal(compiles, alone)
    assert grad.dtype == dtype
    assert (grad[0, :masked] == 0).all()
    exact = torch.softmax(logits.double(), -1) - torch.nn.functional.one_hot(
        labels.clamp(min=0), 300
    )
    exact = exact * (labels != -100).unsqueeze(-1)
    assert (grad - exact).abs().max() <= 4 * torch.finfo(dtype).eps
    assert (expected - exact).abs().max() <= 64 * torch.finfo(dtype).eps  # a logit rounds more


def test_cross_entropy_of_masked_labels_only_is_zero():
    x, weight, labels = head()
    total, losses = CrossEntropy(4)(x, weight, torch.full_like(labels, -100))
    assert total == 0
    assert (losses == 0).all()
    assert all((g == 0).all() for g in torch.autograd.grad(total, (x, weight)))


def test_cross_entropy_of_bf16_sums_in_fp32():
    x, weight, labels = head(tokens=64)
    narrow, wide = x.detach().bfloat16().requires_grad_(), weight.detach().float().requires_grad_()
    total, losses = CrossEntropy(16)(narrow, wide, labels)
    assert (total.dtype, losses.dtype) == (torch.float32, torch.float32)
    exact = F.cross_entropy(x @ weight.t(), labels, reduction="sum", ignore_index=-100)
    assert abs(total.item() / exact.item() - 1) < 0.01
    grads = torch.autograd.grad(total, (narrow, wide))
    theirs = torch.autograd.grad(exact, (x, weight))
    for ours, their in zip(grads, theirs, strict=True):
        assert (ours.double() - their).norm() < 0.02 * their.norm()


def test_cross_entropy_of_bf16_adds_slices_in_fp32():
    """One token at a time or all at once: sums in bf16 would lose what is small beside the sum so far."""
    x, weight, labels = head(tokens=200)
    narrow, wide = x.detach().bfloat16(), weight.detach().float().requires_grad_()
    one, all_ = (
        torch.autograd.grad(CrossEntropy(slice_tokens)(narrow, wide, labels)[0], wide)[0]
        for slice_tokens in (1, 200)
    )
    assert one.dtype == all_.dtype == torch.float32
    assert (one - all_).norm() < 1e-3 * all_.norm()


# ---- GELU --------------------------------------------------------------------------------------


def test_gelu_and_its_two_derivatives():
    x = torch.cat([torch.linspace(-12, 12, 2001, dtype=torch.float64), normal(50, grad=False)])
    x.requires_grad_()
    tanh = torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    value = 0.5 * x * (1 + tanh)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    slope, curvature = slope_and_curvature(x.detach())
    assert_close([gelu(x), slope, curvature], [value, first, second], 1e-12)
    assert_close(gelu_and_slope(x.detach()), [value, first], 1e-13)


# ---- inner loss --------------------------------------------------------------------------------


def inner_problem(dim):
    """z [n, N, K, f] and a target with N = 2 rows of batch x 3 heads."""
    batch, heads, count, size = 2, 3, 2, 4
    shape = (count, batch * heads, size, dim)
    z, k, v = (normal(*shape, seed=s) for s in range(3))
    return z, k, v, 1 + 0.3 * normal(heads, dim, seed=3), normal(heads, dim, seed=4), batch


@pytest.mark.parametrize("dim", [3, 8])
def test_inner_gradient_is_the_losses_gradient(dim):
    z, k, v, weight, bias, batch = inner_problem(dim)
    target = Target.build(k, v, weight, bias, batch)
    gamma, beta = weight.repeat(batch, 1)[:, None], bias.repeat(batch, 1)[:, None]
    mean, variance = z.mean(-1, keepdim=True), z.var(-1, keepdim=True, correction=0)
    error = gamma * (z - mean) / (variance + 1e-6).sqrt() + beta - (v - k)
    (wanted,) = torch.autograd.grad(0.5 * error.square().sum(), z)
    assert_close([gradient(z, target.u, target.gamma2)], [wanted], 1e-13)


@pytest.mark.parametrize("dim", [3, 8])
def test_inner_jacobian_and_target_are_the_gradients_of_the_gradient(dim):
    z, k, v, weight, bias, batch = inner_problem(dim)
    gamma, beta = weight.repeat(batch, 1)[:, None], bias.repeat(batch, 1)[:, None]
    mean, variance = z.mean(-1, keepdim=True), z.var(-1, keepdim=True, correction=0)
    error = gamma * (z - mean) / (variance + 1e-6).sqrt() + beta - (v - k)
    (g,) = torch.autograd.grad(0.5 * error.square().sum(), z, create_graph=True)
    p = normal(*z.shape, seed=9, grad=False)
    leaves = (z, k, v, weight, bias)
    wanted = torch.autograd.grad(g, leaves, p)

    with torch.no_grad():
        target = Target.build(k, v, weight, bias, batch)
        jacobian = Jacobian.prepare(
            z, target.u, gradient(z, target.u, target.gamma2), target.gamma2
        )
        dz = torch.full_like(z, float("nan"))
        dy = jacobian.transpose(p, dz)
        parts, dz_parts = [], torch.full_like(z, float("nan"))
        for step, p_step, out in zip(jacobian.steps(), p, dz_parts, strict=True):
            parts.append(step.transpose(p_step, out))
        d_v, d_gamma, d_beta = target.backward(dy, jacobian.normed)
    assert_close([torch.stack(parts), dz_parts], [dy, dz], 1e-15)
    heads = [d.unflatten(0, (batch, -1)).sum(0) for d in (d_gamma, d_beta)]
    assert_close([dz, -d_v, d_v, *heads], wanted, 1e-12)


def test_inner_jacobian_of_constant_rows_is_finite():
    z = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    u, gamma2 = normal(1, 1, 2, 4, grad=False), torch.ones(1, 2, 4, dtype=torch.float64)
    jacobian = Jacobian.prepare(z, u, gradient(z, u, gamma2), gamma2)
    out = torch.empty_like(z)
    assert jacobian.transpose(torch.zeros_like(z), out).eq(0).all()
    assert out.eq(0).all()


# ---- mini-batch layout -------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(length=st.integers(1, 30), size=st.integers(1, 7), ones=st.booleans())
def test_layout_goes_there_and_back(length, size, ones):
    x = normal(2, 3, length, 5, grad=False)
    laid = to_minibatches(x, size, torch.float64, ones=ones)
    assert laid.shape == (-(-length // size), 6, size, 5 + ones)
    assert torch.equal(from_minibatches(laid, x.shape, torch.float64), x)
    for t in range(length):
        row = laid[t // size, :, t % size]
        assert torch.equal(row[:, :5], x[:, :, t].flatten(0, 1))
    filling = laid.transpose(0, 1).flatten(1, 2)[:, length:]
    assert (filling[..., :5] == 0).all()
    assert not ones or (laid[..., 5] == 1).all()


@pytest.mark.parametrize("length", [3, 4, 7, 8, 10])
def test_rates_of_a_short_last_minibatch(length):
    lr, tau = normal(1, 2, length, grad=False).abs(), normal(4, seed=1, grad=False)
    rates = Rates.build(lr, tau, 4, torch.float64)
    count, rows = -(-length // 4), (length - 1) % 4
    assert rates.last_row == [3] * (count - 1) + [rows]
    step = rates.step[..., 0].transpose(0, 1).flatten(1)
    for t in range(4 * count):
        last = tau[3] if t // 4 < count - 1 else tau[rows]
        wanted = -last * lr[0, :, t] if t < length else torch.zeros(2, dtype=torch.float64)
        assert torch.equal(step[:, t], wanted)
    eta = rates.coefficients()
    assert torch.equal(eta, (tau[:, None] * rates.lam.transpose(-1, -2)).tril())
