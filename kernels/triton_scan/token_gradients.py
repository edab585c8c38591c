"""Gradients of tokens, rates and norm parameters: the last phase, parallel, of both inner learners.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); I inner width, IB columns of it at a time; K tokens of a mini-batch; BLOCK mini-batches of a
block (64 tokens in bf16, 32 in fp32; no CUDA block).

Both learners update an input matrix W1 [F, I] with inner gradients G1 [tokens, I]: TTT-Linear its only one (I
= F), TTT-MLP its first (I = 4F). Formulas in ../ttt_linear.md.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import store_norm_sums
from tttscale.kernels.triton_scan.ops import (
    block_of,
    load,
    mma,
    narrow,
    norm_backward,
    rates_of,
    store,
)


@triton.jit
def _load_turned(ptr, inner, cols, F: tl.constexpr, I: tl.constexpr):
    """Load columns `inner` of W [F, I] at ptr, transposed: [IB, FP]."""
    return load(
        ptr + inner[:, None] + cols[None, :] * I, (inner[:, None] < I) & (cols[None, :] < F)
    )


@triton.jit
def _readers(
    q_ptr, k_ptr, lr_ptr, tau_ptr, d_out_ptr, g1_ptr, dz1q_ptr, w1_saved_ptr, dq_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, I: tl.constexpr, IB: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Store dq; return the readers' share of dk, [BLOCK K, FP]."""
    _, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    here = rows_ok[:, None] & (cols[None, :] < F)
    read = tl.zeros([BLOCK * K, BLOCK * K], tl.float32)  # R without its weights
    dq = tl.zeros([BLOCK * K, FP], tl.float32)
    for begin in range(0, I, IB):
        inner = begin + tl.arange(0, IB)
        wide, wide_ok = rows[:, None] * I + inner[None, :], rows_ok[:, None] & (inner[None, :] < I)
        g1 = load(g1_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        dz1q = load(dz1q_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        W1 = _load_turned(w1_saved_ptr + saved * F * I, inner, cols, F, I)  # [IB, FP]
        read = mma(dz1q, tl.trans(g1), read, BF16)
        dq = mma(dz1q, W1, dq, BF16)
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    read = narrow(-read * reads * lam[None, :], BF16)
    dq = mma(read, load(k_ptr + tokens + token, here), dq, BF16)
    store(dq_ptr + tokens + token, dq + load(d_out_ptr + tokens + token, here), here)
    q = load(q_ptr + tokens + token, here)  # [BLOCK K, FP]
    return mma(tl.trans(read), q, tl.zeros([BLOCK * K, FP], tl.float32), BF16)


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def token_gradients_kernel(
    q_ptr, k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, d_out_ptr,
    g1_ptr, dz1_ptr, dz1q_ptr, w1_saved_ptr, dw1_saved_ptr, db1_saved_ptr, p_ptr, normed_ptr,
    plane_ptr, asked_ptr, g2_ptr, kappa2_ptr, future_ptr, dq_ptr, dk_ptr, dv_ptr, dlr_ptr, dnorm_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, I: tl.constexpr, IB: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Form dq, dk, dv, dlr of one block; IB columns of I at a time, first for readers, then for sources.

    Grid: (blocks, N). future receives the inner gradients times what later blocks and keys ask of them (of
    the state); TTT-MLP's second layer adds G2 kappa2 to it (None for TTT-Linear).
    """
    dk = tl.zeros([BLOCK * K, FP], tl.float32)
    # Always taken; for TTT-MLP it is a branch, which keeps the readers' offsets out of registers after it.
    if I == F or T > 0:
        dk = _readers(
            q_ptr, k_ptr, lr_ptr, tau_ptr, d_out_ptr, g1_ptr, dz1q_ptr, w1_saved_ptr, dq_ptr,
            stride_b, stride_h, stride_t, T, heads, F, FP, I, IB, K, BLOCK, BF16,
        )  # fmt: skip

    head, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    tile = rows[:, None] * F + cols[None, :]
    square0 = tl.zeros([BLOCK * K, BLOCK * K], tl.float32)
    moved = square0  # A without its weights
    ahead = tl.zeros([BLOCK * K, FP], tl.float32)  # what later blocks ask of G1
    future = tl.zeros([BLOCK * K], tl.float32)
    for begin in range(0, I, IB):
        inner = begin + tl.arange(0, IB)
        wide, wide_ok = rows[:, None] * I + inner[None, :], rows_ok[:, None] & (inner[None, :] < I)
        g1 = load(g1_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        dz1 = load(dz1_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        W1 = _load_turned(w1_saved_ptr + saved * F * I, inner, cols, F, I)  # [IB, FP]
        dW1 = _load_turned(dw1_saved_ptr + saved * F * I, inner, cols, F, I)  # [IB, FP]
        # First: Triton loads the next g1 into the same buffer (its issue 6691), and before that waits for all
        # products but the last ones. One that reads g1 would still run there (benchmarks/ptx finds it).
        ahead = mma(g1, dW1, ahead, BF16)
        moved = mma(dz1, tl.trans(g1), moved, BF16)
        dk = mma(dz1, W1, dk, BF16)
        db1 = load(db1_saved_ptr + saved * I + inner, inner < I)
        future += tl.sum(g1 * db1[None, :], 1)
    k = load(k_ptr + tokens + token, here)  # [BLOCK K, FP]
    left = T - tl.program_id(0) * BLOCK * K
    last = tl.minimum(left - (rows // K) * K, K) - 1  # of the token's mini-batch
    last_tau = tl.load(tau_ptr + tl.maximum(last, 0))
    lam, _, moves = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    future += tl.sum(ahead * k, 1)
    dk -= (last_tau * lam)[:, None] * ahead
    # What a token's key is to later keys, its inner gradient is to them too.
    scores = mma(k, tl.trans(k), square0, BF16) + 1
    earlier = rows[None, :] // K < rows[:, None] // K
    future += tl.sum(tl.where(earlier, moved * scores, 0.0), 0)
    moved = narrow(-moved * moves * lam[None, :], BF16)
    dk = mma(tl.trans(moved), k, mma(moved, k, dk, BF16), BF16)

    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
    p, normed = load(p_ptr + before * F + tile, here), load(normed_ptr + before * F + tile, here)
    rstd = load(plane_ptr + before + rows, rows_ok)[:, None]
    dy = norm_backward(p, normed, rstd, cols_ok, F)
    store(dk_ptr + tokens + token, dk + gamma * dy, here)
    store(dv_ptr + tokens + token, -gamma * dy, here)
    k = load(k_ptr + tokens + token, here)
    miss = tl.where(here, beta - load(v_ptr + tokens + token, here) + k, 0.0)
    d_gamma = dy * (miss + 2 * gamma * normed)
    store_norm_sums(dnorm_ptr + saved * 2 * F, cols, d_gamma, dy * gamma, F)
    asked = load(asked_ptr + before + rows, rows_ok)
    if g2_ptr is not None:
        kappa2 = load(kappa2_ptr + before * F + tile, here)
        future += tl.sum(load(g2_ptr + before * F + tile, here) * kappa2, 1)
    tl.store(future_ptr + before + rows, future, mask=rows_ok)
    tl.store(dlr_ptr + before + rows, -asked - last_tau * future, mask=rows_ok)
