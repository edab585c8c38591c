"""The serial kernels of TTT-MLP: (W1, W2)(t) -> (t+1), and their gradients backwards.

One program per (sequence, head) holds both matrices, hidden columns padded to 4 FP. Everything that does
not stand on the chain is in parallel.py; formulas and layout of the saved tensors in README.md.
"""

import triton
import triton.language as tl

from tttscale.kernels.triton_inner_loss import (
    inner_gradient,
    inner_gradient_backward,
    load_jacobian,
)
from tttscale.kernels.triton_ops import gelu_and_slope, load, mma, store


@triton.jit(do_not_specialize=["T", "heads"])
def advance_kernel(
    k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr,
    g1_ptr, g2_ptr, w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr,
    w1_last_ptr, b1_last_ptr, w2_last_ptr, b2_last_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Z1 = k W1, X2 = gelu(Z1), G2 = g(X2 W2), G1 = (G2 W2^T) gelu'(Z1), then both updates."""
    I: tl.constexpr = 4 * F
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols, inner = tl.arange(0, K), tl.arange(0, FP), tl.arange(0, 4 * FP)
    cols_ok, inner_ok = cols[None, :] < F, inner[None, :] < I
    at1, ok1 = cols[:, None] * I + inner[None, :], (cols[:, None] < F) & inner_ok
    at2, ok2 = inner[:, None] * F + cols[None, :], (inner[:, None] < I) & cols_ok
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
    gamma2 = gamma * gamma

    # LayerNorm does not see the mean over the output dim: kept out of the chain, centred sums are exact.
    W1, W2 = load(w1_ptr + n * F * I + at1, ok1), load(w2_ptr + n * F * I + at2, ok2)
    b2 = load(b2_ptr + n * F + cols, cols < F)[None, :]
    W2_mean, b2_mean = tl.sum(W2, 1)[:, None] / F, tl.sum(b2, 1)[:, None] / F
    W2 = tl.where(ok2, W2 - W2_mean, 0.0)
    # Biases stand in every row of a tile, so that a product updates them.
    B1 = load(b1_ptr + n * I + inner, inner < I)[None, :] + tl.zeros([K, 4 * FP], tl.float32)
    B2 = tl.where(cols_ok, b2 - b2_mean, 0.0) + tl.zeros([K, FP], tl.float32)

    tokens, before = (n // heads) * stride_b + head * stride_h, n * T
    token = rows[:, None] * stride_t + cols[None, :]
    tile, wide = rows[:, None] * F + cols[None, :], rows[:, None] * I + inner[None, :]
    saved = n * tl.cdiv(T, BLOCK * K)
    tau_full, tau_short = tl.load(tau_ptr + K - 1), tl.load(tau_ptr + (T - 1) % K)
    for i in range(0, tl.cdiv(T, K)):
        if i % BLOCK == 0:
            store(w1_saved_ptr + saved * F * I + at1, W1, ok1)
            store(w2_saved_ptr + saved * F * I + at2, W2, ok2)
            first1 = tl.sum(tl.where(rows[:, None] == 0, B1, 0.0), 0)
            first2 = tl.sum(tl.where(rows[:, None] == 0, B2, 0.0), 0)
            tl.store(b1_saved_ptr + saved * I + inner, first1, mask=inner < I)
            tl.store(b2_saved_ptr + saved * F + cols, first2, mask=cols < F)
            saved += 1
        left = T - i * K
        row_ok = rows < left
        here = row_ok[:, None] & cols_ok
        k = load(k_ptr + tokens + token, here)
        u = gamma * (beta - load(v_ptr + tokens + token, here) + k)
        lam = load(lr_ptr + before + rows, row_ok)[:, None]
        step = -tl.where(left < K, tau_short, tau_full) * lam
        x2, slope = gelu_and_slope(mma(k, W1, B1, BF16))
        g2 = inner_gradient(mma(x2, W2, B2, BF16), u, gamma2, cols_ok, F)
        g1 = mma(g2, tl.trans(W2), tl.zeros([K, 4 * FP], tl.float32), BF16) * slope
        store(g2_ptr + before * F + tile, g2, here)
        store(g1_ptr + before * I + wide, g1, row_ok[:, None] & inner_ok)
        steps = tl.trans(step + tl.zeros([K, K], tl.float32))
        W2 = mma(tl.trans(x2 * step), g2, W2, BF16)
        B2 = mma(steps, g2, B2, BF16)
        W1 = mma(tl.trans(k * step), g1, W1, BF16)
        B1 = mma(steps, g1, B1, BF16)
        tokens += K * stride_t
        before += K
    b1 = tl.sum(tl.where(rows[:, None] == 0, B1, 0.0), 0)
    b2 = tl.sum(tl.where(rows[:, None] == 0, B2, 0.0), 0)[None, :] + b2_mean
    tl.store(w1_last_ptr + n * F * I + at1, W1, mask=ok1)
    tl.store(b1_last_ptr + n * I + inner, b1, mask=inner < I)
    tl.store(w2_last_ptr + n * F * I + at2, W2 + W2_mean, mask=ok2)
    tl.store(b2_last_ptr + n * F + cols[None, :], b2, mask=cols_ok)


@triton.jit(do_not_specialize=["T", "heads", "begin", "end"])
def replay_kernel(
    lr_ptr, tau_ptr, x2_ptr, g2_ptr, w2_saved_ptr, w2_inside_ptr,
    begin, end, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """W2 in front of each mini-batch of [begin, end), FP hidden rows at a time; begin starts a block."""
    n = tl.program_id(1).to(tl.int64)
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    inner = tl.program_id(2) * FP + cols
    cols_ok = cols[None, :] < F
    at, ok = inner[:, None] * F + cols[None, :], (inner[:, None] < 4 * F) & cols_ok
    first = begin + tl.program_id(0) * BLOCK
    block = n * tl.cdiv(T, BLOCK * K) + first // BLOCK
    W2 = load(w2_saved_ptr + block * 4 * F * F + at, ok)
    tau_last = tl.load(tau_ptr + K - 1)
    for i in range(first, tl.minimum(first + BLOCK, end)):
        inside = n * (end - begin) + i - begin
        store(w2_inside_ptr + inside * 4 * F * F + at, W2, ok)
        before = n * T + i * K
        row_ok = i * K + rows < T
        step = -tau_last * load(lr_ptr + before + rows, row_ok)[:, None]
        x2_ok = row_ok[:, None] & (inner[None, :] < 4 * F)
        x2 = load(x2_ptr + before * 4 * F + rows[:, None] * 4 * F + inner[None, :], x2_ok)
        here = row_ok[:, None] & cols_ok
        g2 = load(g2_ptr + before * F + rows[:, None] * F + cols[None, :], here)
        W2 = mma(tl.trans(x2 * step), g2, W2, BF16)


@triton.jit(do_not_specialize=["T", "heads", "scans", "begin", "end"])
def advance_backward_kernel(
    k_ptr, q_ptr, lr_ptr, tau_ptr, gamma_ptr, g1_ptr, g2_ptr, x2_ptr, xq_ptr, dz1q_ptr, dz2q_ptr,
    local_ptr, share_ptr, slope_ptr, curved_ptr, normed_ptr, p_ptr, plane_ptr, w2_inside_ptr,
    dw1_ptr, db1_ptr, dw2_ptr, db2_ptr, dz1_ptr, future_ptr, dw1_saved_ptr,
    dw1_first_ptr, db1_first_ptr, dw2_first_ptr, db2_first_ptr,
    stride_b, stride_h, stride_t, begin, end, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """The reverse chain through both layers over the mini-batches [begin, end), last one first.

    p_ptr holds the readers' share of dG2 and receives the whole; `local` is theirs of dG1, `share` theirs
    of the keys' hidden layer.
    """
    I: tl.constexpr = 4 * F
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols, inner = tl.arange(0, K), tl.arange(0, FP), tl.arange(0, 4 * FP)
    cols_ok, inner_ok = cols[None, :] < F, inner[None, :] < I
    at1, ok1 = cols[:, None] * I + inner[None, :], (cols[:, None] < F) & inner_ok
    at2, ok2 = inner[:, None] * F + cols[None, :], (inner[:, None] < I) & cols_ok
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    gamma2 = gamma * gamma
    dW1, dW2 = load(dw1_ptr + n * F * I + at1, ok1), load(dw2_ptr + n * F * I + at2, ok2)
    dB1 = load(db1_ptr + n * I + inner, inner < I)[None, :] + tl.zeros([K, 4 * FP], tl.float32)
    dB2 = load(db2_ptr + n * F + cols, cols < F)[None, :] + tl.zeros([K, FP], tl.float32)
    ones = tl.full([K, K], 1.0, tl.float32)
    count = tl.cdiv(T, K)
    final = (end - 1).to(tl.int64) * K
    tokens = (n // heads) * stride_b + head * stride_h + final * stride_t
    token = rows[:, None] * stride_t + cols[None, :]
    tile, wide = rows[:, None] * F + cols[None, :], rows[:, None] * I + inner[None, :]
    before, plane = n * T + final, scans.to(tl.int64) * T
    tau_full, tau_short = tl.load(tau_ptr + K - 1), tl.load(tau_ptr + (T - 1) % K)
    for back in range(0, end - begin):
        i = end - 1 - back
        if (i == count - 1) | (i % BLOCK == BLOCK - 1):
            saved = n * tl.cdiv(T, BLOCK * K) + i // BLOCK
            store(dw1_saved_ptr + saved * F * I + at1, dW1, ok1)
        left = T - i * K
        row_ok = rows < left
        here, wide_ok = row_ok[:, None] & cols_ok, row_ok[:, None] & inner_ok
        small, large = before * F, before * I
        k = load(k_ptr + tokens + token, here)
        lam = load(lr_ptr + before + rows, row_ok)[:, None]
        step = -tl.where(left < K, tau_short, tau_full) * lam

        x2 = load(x2_ptr + large + wide, wide_ok)
        kappa1, kappa2 = mma(k, dW1, dB1, BF16), mma(x2, dW2, dB2, BF16)
        future = tl.sum(kappa1 * load(g1_ptr + large + wide, wide_ok), 1)
        slope = load(slope_ptr + large + wide, wide_ok)
        dg1 = load(local_ptr + large + wide, wide_ok) + step * kappa1
        W2 = load(w2_inside_ptr + (n * (end - begin) + i - begin) * F * I + at2, ok2)
        p = mma(dg1 * slope, W2, load(p_ptr + small + tile, here) + step * kappa2, BF16)
        g2 = load(g2_ptr + small + tile, here)
        rstd, m, y_mean, a1, a2 = load_jacobian(plane_ptr + before, plane, rows, row_ok)
        normed = load(normed_ptr + small + tile, here)
        dz2, future2 = inner_gradient_backward(
            p, g2, normed, rstd, m, y_mean, a1, a2, gamma2, kappa2, here, F
        )
        store(p_ptr + small + tile, p, here)
        tl.store(future_ptr + before + rows, future + tl.sum(future2, 1), mask=row_ok)
        dx2 = mma(g2, tl.trans(dW2), tl.zeros([K, 4 * FP], tl.float32), BF16) * step
        dx2 = mma(dz2, tl.trans(W2), dx2 + load(share_ptr + large + wide, wide_ok), BF16)
        dz1 = dg1 * load(curved_ptr + large + wide, wide_ok) + dx2 * slope
        store(dz1_ptr + large + wide, dz1, wide_ok)
        dz2q = load(dz2q_ptr + small + tile, here)
        dW2 = mma(tl.trans(load(xq_ptr + large + wide, wide_ok)), dz2q, dW2, BF16)
        dW2 = mma(tl.trans(x2), dz2, dW2, BF16)
        dW2 = mma(tl.trans(dg1 * slope), g2, dW2, BF16)
        dB2 = mma(ones, dz2 + dz2q, dB2, BF16)
        dz1q, q = load(dz1q_ptr + large + wide, wide_ok), load(q_ptr + tokens + token, here)
        dW1 = mma(tl.trans(q), dz1q, dW1, BF16)
        dW1 = mma(tl.trans(k), dz1, dW1, BF16)
        dB1 = mma(ones, dz1 + dz1q, dB1, BF16)
        tokens -= K * stride_t
        before -= K
    tl.store(dw1_first_ptr + n * F * I + at1, dW1, mask=ok1)
    tl.store(dw2_first_ptr + n * F * I + at2, dW2, mask=ok2)
    db1 = tl.sum(tl.where(rows[:, None] == 0, dB1, 0.0), 0)
    db2 = tl.sum(tl.where(rows[:, None] == 0, dB2, 0.0), 0)
    tl.store(db1_first_ptr + n * I + inner, db1, mask=inner < I)
    tl.store(db2_first_ptr + n * F + cols, db2, mask=cols < F)
