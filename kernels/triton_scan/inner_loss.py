"""The inner gradient and its derivative in Triton, each with one reduction of four row sums.

Legend: rows are K tokens of a mini-batch or the tokens of a block; F features of a head, in tiles of FP
columns (the next power of two), of which `cols_ok` are the first F. Row constants are [rows, 1]. z: before
LayerNorm; x^ = `normed`; s = 1/sigma = `rstd`; y: gradient at x^; g: gradient at z; p = dg; `miss`: the
target's residual beta - v + k. Derived in ../README.md.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.ops import norm_backward, normalised, row_sums4, store


@triton.jit
def normalised_row(z, cols_ok, F: tl.constexpr):
    """x^ of one row z [FP], of which the first F columns count."""
    normed, _ = normalised(tl.where(cols_ok, z, 0.0)[None, :], cols_ok[None, :], F)
    return tl.sum(normed, 0)


@triton.jit
def gradient_of_row(z, u, gamma, cols_ok, F: tl.constexpr):
    """g [FP] of one row z with its means, as the reference forms it; u = gamma (beta - v + k)."""
    here = cols_ok[None, :]
    normed, rstd = normalised(tl.where(cols_ok, z, 0.0)[None, :], here, F)
    y = tl.where(here, (gamma * gamma)[None, :] * normed + u[None, :], 0.0)
    return tl.sum(norm_backward(y, normed, rstd, here, F), 0)


@triton.jit
def squares(gamma, F: tl.constexpr):
    """gamma^2 of a norm's weight [1, FP], and its mean [1, 1], once per program."""
    gamma2 = gamma * gamma
    return gamma2, tl.sum(gamma2, 1)[:, None] / F


@triton.jit
def inner_gradient(z, u, gamma2, gamma2_mean, cols_ok, F: tl.constexpr):
    """g [rows, FP] at z and u without means: s (y - mean(y) - x^ mean(y x^)), y = gamma^2 x^ + u, x^ = s z.

    What rounding leaves of the mean of z must not grow: hence gamma^2 without its mean, see ../README.md.
    """
    around = gamma2 - gamma2_mean
    s2, sg, sg2, su_z = row_sums4(z * z, around * z, gamma2 * z * z, u * z)
    rstd = tl.rsqrt(s2 / F + 1e-6)
    square = rstd * rstd
    along = rstd * square * (rstd * sg2 + su_z) / F  # s^2 mean(y x^)
    return _counted(z * (gamma2 * square - along) + (rstd * u - square * sg / F), cols_ok, F)


@triton.jit
def _counted(x, cols_ok, F: tl.constexpr):
    """x, with zeros in padded columns."""
    if x.shape[1] != F:
        x = tl.where(cols_ok, x, 0.0)
    return x


@triton.jit
def load_jacobian(plane_ptr, plane, row, row_ok):
    """The five row constants that `store_jacobian` wrote, [rows, 1] each."""
    at = plane_ptr + row
    rstd = tl.load(at, mask=row_ok, other=0.0)[:, None]
    m = tl.load(at + plane, mask=row_ok, other=0.0)[:, None]
    y_mean = tl.load(at + 2 * plane, mask=row_ok, other=0.0)[:, None]
    a1 = tl.load(at + 3 * plane, mask=row_ok, other=0.0)[:, None]
    bend = tl.load(at + 4 * plane, mask=row_ok, other=0.0)[:, None]
    return rstd, m, y_mean, a1, bend


@triton.jit
def inner_gradient_backward(
    p, g, normed, rstd, m, y_mean, a1, bend, gamma2, gamma2_mean, cols_ok, F: tl.constexpr
):  # fmt: skip
    """dz [rows, FP] for p = dg without mean; what rounding leaves of the mean must not grow.

    normed, rstd, m, y_mean, a1, bend: see `store_jacobian`. 0 in rows beyond the last token, whose rstd is 0.
    """
    square, around = rstd * rstd, gamma2 - gamma2_mean
    of_p = square * (gamma2 - m)
    of_px = rstd * g + square * (normed * (gamma2 + m) + y_mean)
    along = p * normed
    sum_px, sum_gp, sum_gpx, sum_pg = row_sums4(along, around * p, around * along - a1 * p, p * g)
    px = sum_px / F
    dx_mean = square * (sum_gp / F - px * (a1 + y_mean))
    dx_along = square * (sum_gpx / F + px * bend) + rstd * sum_pg / F
    return _counted(p * of_p - px * of_px - dx_mean - normed * dx_along, cols_ok, F)


@triton.jit
def store_jacobian(
    normed_ptr, plane_ptr, tile, row, here, plane, z, miss, gamma, cols_ok, F: tl.constexpr
):  # fmt: skip
    """Store x^ of the keys [rows, FP] and five row constants: all of the Jacobian that p does not touch.

    Planes of [N, T] each, `plane` numbers apart, with g2 for gamma^2: rstd = 1/sigma; m = mean(y x^);
    y_mean = mean(y); a1 = mean(g2 x^); bend = mean(g2) - mean(g2 x^^2) - 2 m.
    """
    normed, rstd = normalised(z, cols_ok, F)
    gamma2 = gamma * gamma
    y = tl.where(cols_ok, gamma2 * normed + gamma * miss, 0.0)
    row_ok = tl.max(here.to(tl.int32), 1) > 0
    store(normed_ptr + tile, normed, here)
    tl.store(plane_ptr + row, tl.sum(rstd, 1), mask=row_ok)
    along, bend = tl.sum(y * normed, 1) / F, tl.sum(gamma2 - gamma2 * normed * normed, 1) / F
    tl.store(plane_ptr + plane + row, along, mask=row_ok)
    tl.store(plane_ptr + 2 * plane + row, tl.sum(y, 1) / F, mask=row_ok)
    tl.store(plane_ptr + 3 * plane + row, tl.sum(gamma2 * normed, 1) / F, mask=row_ok)
    tl.store(plane_ptr + 4 * plane + row, bend - 2 * along, mask=row_ok)


@triton.jit
def store_norm_sums(dnorm_ptr, cols, d_gamma, d_beta, F: tl.constexpr):
    """A block's part of the gradients of the norm's weight and bias, [2, F], to dnorm_ptr."""
    at = dnorm_ptr + cols
    tl.store(at, tl.sum(d_gamma, 0), mask=cols < F)
    tl.store(at + F, tl.sum(d_beta, 0), mask=cols < F)
