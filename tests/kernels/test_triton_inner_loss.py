"""The inner gradient and its derivative as Triton has them, row by row against autograd in fp64."""

import pytest
import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from tttscale.kernels.triton_scan.inner_loss import inner_gradient, inner_gradient_backward, squares

ROWS = 16


@triton.jit
def gradient_kernel(
    z_ptr, u_ptr, gamma_ptr, g_ptr, F: tl.constexpr, FP: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    rows, cols = tl.arange(0, ROWS)[:, None], tl.arange(0, FP)[None, :]
    at, ok = rows * F + cols, cols < F
    gamma2, gamma2_mean = squares(tl.load(gamma_ptr + cols, mask=ok, other=0.0), F)
    z, u = tl.load(z_ptr + at, mask=ok, other=0.0), tl.load(u_ptr + at, mask=ok, other=0.0)
    tl.store(g_ptr + at, inner_gradient(z, u, gamma2, gamma2_mean, ok, F), mask=ok)


@triton.jit
def backward_kernel(
    p_ptr, g_ptr, normed_ptr, rows_ptr, gamma_ptr, dz_ptr,
    F: tl.constexpr, FP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows, cols = tl.arange(0, ROWS)[:, None], tl.arange(0, FP)[None, :]
    at, ok = rows * F + cols, cols < F
    gamma2, gamma2_mean = squares(tl.load(gamma_ptr + cols, mask=ok, other=0.0), F)
    p, g = tl.load(p_ptr + at, mask=ok, other=0.0), tl.load(g_ptr + at, mask=ok, other=0.0)
    normed = tl.load(normed_ptr + at, mask=ok, other=0.0)
    rstd, m = tl.load(rows_ptr + rows), tl.load(rows_ptr + ROWS + rows)
    y_mean, a1 = tl.load(rows_ptr + 2 * ROWS + rows), tl.load(rows_ptr + 3 * ROWS + rows)
    bend = tl.load(rows_ptr + 4 * ROWS + rows)
    dz = inner_gradient_backward(
        p, g, normed, rstd, m, y_mean, a1, bend, gamma2, gamma2_mean, ok, F
    )
    tl.store(dz_ptr + at, dz, mask=ok)


def rows_of(dim):
    """z and u without mean, and the norm's weight, in fp64; weights with signs, far from 1."""
    torch.manual_seed(dim)
    z, u = torch.randn(2, ROWS, dim, dtype=torch.float64)
    gamma = 1 + torch.randn(dim, dtype=torch.float64)
    return z - z.mean(1, keepdim=True), u - u.mean(1, keepdim=True), gamma


def exact(z, u, gamma):
    """g by autograd: the gradient at z of a loss whose gradient at x^ is gamma^2 x^ + u."""
    normed = F.layer_norm(z, z.shape[1:], eps=1e-6)
    loss = ((gamma * normed).square() / 2 + u * normed).sum()
    return torch.autograd.grad(loss, z, create_graph=True)[0]


def close(ours, reference):
    error = (ours.double() - reference).norm() / reference.norm()
    assert error < 1e-6, error


@pytest.mark.parametrize("dim", [16, 24, 64])
def test_inner_gradient(dim):
    z, u, gamma = rows_of(dim)
    g = torch.full((ROWS, dim), float("nan"))
    inputs = (z.float(), u.float(), gamma.float())
    gradient_kernel[(1,)](*inputs, g, dim, triton.next_power_of_2(dim), ROWS)  # type: ignore
    close(g, exact(z.requires_grad_(), u, gamma).detach())


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("dim", [16, 24, 64])
def test_its_derivative_and_what_it_leaves_of_a_mean(dim, mean):
    """A constant c in p does nothing to the true dz. Ours keeps c s^2 (gamma^2 - m) and nothing else.

    That is what other components of p meet in place, too, and what makes rounding errors decay (README.md).
    """
    z, u, gamma = rows_of(dim)
    z.requires_grad_()
    p = torch.randn(ROWS, dim, dtype=torch.float64)
    p += mean - p.mean(1, keepdim=True)
    g = exact(z, u, gamma)
    (dz,) = torch.autograd.grad(g, z, p)
    with torch.no_grad():
        rstd = (z.var(1, correction=0, keepdim=True) + 1e-6).rsqrt()
        normed, gamma2 = z * rstd, gamma * gamma
        y = gamma2 * normed + u
        m, a1 = (y * normed).mean(1), (gamma2 * normed).mean(1)
        bend = (gamma2 - gamma2 * normed.square()).mean(1) - 2 * m
        rows = torch.stack([rstd[:, 0], m, y.mean(1), a1, bend])
        ours = torch.full((ROWS, dim), float("nan"))
        inputs = [x.float() for x in (p, g, normed, rows, gamma)]
        backward_kernel[(1,)](*inputs, ours, dim, triton.next_power_of_2(dim), ROWS)  # type: ignore
        close(ours, dz + mean * rstd.square() * (gamma2 - m[:, None]))
