"""The serial kernels of TTT-Linear: W(t) -> W(t+1), and its gradient backwards.

One program per (sequence, head). Everything that does not stand on the chain is in parallel.py; formulas
and layout of the saved tensors in README.md.
"""

import triton
import triton.language as tl

from tttscale.kernels.triton_inner_loss import (
    inner_gradient,
    inner_gradient_backward,
    load_jacobian,
)
from tttscale.kernels.triton_ops import load, mma, store


@triton.jit(do_not_specialize=["T", "heads"])
def advance_kernel(
    k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, w_ptr, b_ptr,
    g_ptr, w_saved_ptr, b_saved_ptr, w_last_ptr, b_last_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Z = k W + b, G = g(Z), W += (step k)^T G, b += step^T G for each mini-batch in turn."""
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    square_ok = (cols[:, None] < F) & cols_ok
    square = cols[:, None] * F + cols[None, :]
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
    gamma2 = gamma * gamma

    # LayerNorm does not see the mean over the output dim: kept out of the chain, centred sums are exact.
    W = load(w_ptr + n * F * F + square, square_ok)
    b = load(b_ptr + n * F + cols, cols < F)[None, :]
    W_mean, b_mean = tl.sum(W, 1)[:, None] / F, tl.sum(b, 1)[:, None] / F
    W = tl.where(square_ok, W - W_mean, 0.0)
    B = tl.where(cols_ok, b - b_mean, 0.0) + tl.zeros([K, FP], tl.float32)  # b in every row

    tokens, before = (n // heads) * stride_b + head * stride_h, n * T
    token, tile = rows[:, None] * stride_t + cols[None, :], rows[:, None] * F + cols[None, :]
    saved = n * tl.cdiv(T, BLOCK * K)
    tau_full, tau_short = tl.load(tau_ptr + K - 1), tl.load(tau_ptr + (T - 1) % K)
    for i in range(0, tl.cdiv(T, K)):
        if i % BLOCK == 0:
            store(w_saved_ptr + saved * F * F + square, W, square_ok)
            b_now = tl.sum(tl.where(rows[:, None] == 0, B, 0.0), 0)
            tl.store(b_saved_ptr + saved * F + cols, b_now, mask=cols < F)
            saved += 1
        left = T - i * K
        here = (rows[:, None] < left) & cols_ok
        k = load(k_ptr + tokens + token, here)
        u = gamma * (beta - load(v_ptr + tokens + token, here) + k)
        lam = load(lr_ptr + before + rows, rows < left)[:, None]
        step = -tl.where(left < K, tau_short, tau_full) * lam
        z = mma(k, W, B, BF16)
        g = inner_gradient(z, u, gamma2, cols_ok, F)
        store(g_ptr + before * F + tile, g, here)
        W = mma(tl.trans(k * step), g, W, BF16)
        B = mma(tl.trans(step + tl.zeros([K, K], tl.float32)), g, B, BF16)
        tokens += K * stride_t
        before += K
    b = tl.sum(tl.where(rows[:, None] == 0, B, 0.0), 0)[None, :] + b_mean
    tl.store(w_last_ptr + n * F * F + square, W + W_mean, mask=square_ok)
    tl.store(b_last_ptr + n * F + cols[None, :], b, mask=cols_ok)


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def advance_backward_kernel(
    k_ptr, q_ptr, lr_ptr, tau_ptr, gamma_ptr, g_ptr, normed_ptr, dzq_ptr, p_ptr, plane_ptr,
    dw_ptr, db_ptr, dz_ptr, dw_saved_ptr, db_saved_ptr, dw_first_ptr, db_first_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """p += step kappa, dz = J(p), dW += k^T dz, last mini-batch first; a block's readers all at once.

    p_ptr holds the share of the readers of a token's own block and receives the whole; plane_ptr: see
    `Planes` in triton_segment.py.
    """
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    square_ok = (cols[:, None] < F) & cols_ok
    square = cols[:, None] * F + cols[None, :]
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    gamma2 = gamma * gamma
    dW = load(dw_ptr + n * F * F + square, square_ok)
    dB = load(db_ptr + n * F + cols, cols < F)[None, :] + tl.zeros([K, FP], tl.float32)

    count = tl.cdiv(T, K)
    first = (count - 1).to(tl.int64) * K
    tokens, before = (n // heads) * stride_b + head * stride_h + first * stride_t, n * T + first
    token, tile = rows[:, None] * stride_t + cols[None, :], rows[:, None] * F + cols[None, :]
    saved = (n + 1) * tl.cdiv(T, BLOCK * K)
    ones, block_ones = tl.full([K, K], 1.0, tl.float32), tl.full([K, BLOCK * K], 1.0, tl.float32)
    block_rows = tl.arange(0, BLOCK * K)[:, None]
    plane = scans.to(tl.int64) * T
    tau_full, tau_short = tl.load(tau_ptr + K - 1), tl.load(tau_ptr + (T - 1) % K)
    for back in range(0, count):
        i = count - 1 - back
        if (back == 0) | (i % BLOCK == BLOCK - 1):
            saved -= 1
            store(dw_saved_ptr + saved * F * F + square, dW, square_ok)
            db_now = tl.sum(tl.where(rows[:, None] == 0, dB, 0.0), 0)
            tl.store(db_saved_ptr + saved * F + cols, db_now, mask=cols < F)
        left = T - i * K
        row_ok = rows < left
        here = row_ok[:, None] & cols_ok
        at = before * F
        k, local = load(k_ptr + tokens + token, here), load(p_ptr + at + tile, here)
        g, normed = load(g_ptr + at + tile, here), load(normed_ptr + at + tile, here)
        lam = load(lr_ptr + before + rows, row_ok)[:, None]
        step = -tl.where(left < K, tau_short, tau_full) * lam
        rstd, m, y_mean, a1, a2 = load_jacobian(plane_ptr + before, plane, rows, row_ok)

        p = local + step * mma(k, dW, dB, BF16)
        dz = inner_gradient_backward(p, g, normed, rstd, m, y_mean, a1, a2, gamma2, here, F)
        store(p_ptr + at + tile, p, here)
        store(dz_ptr + at + tile, dz, here)
        # A load that is an operand twice, each time laid out differently, would not be fetched ahead.
        dW = mma(tl.trans(tl.where(here, k, 0.0)), dz, dW, BF16)
        dB = mma(ones, dz, dB, BF16)
        if i % BLOCK == 0:
            block_ok = (block_rows < left) & cols_ok
            q = load(q_ptr + tokens + block_rows * stride_t + cols[None, :], block_ok)
            dzq = load(dzq_ptr + at + block_rows * F + cols[None, :], block_ok)
            dW = mma(tl.trans(q), dzq, dW, BF16)
            dB = mma(block_ones, dzq, dB, BF16)
        tokens -= K * stride_t
        before -= K
    tl.store(dw_first_ptr + n * F * F + square, dW, mask=square_ok)
    db = tl.sum(tl.where(rows[:, None] == 0, dB, 0.0), 0)
    tl.store(db_first_ptr + n * F + cols, db, mask=cols < F)
