"""The outputs of TTT-Linear; the parallel half of its backward is in parallel_backward.py.

One program per block of mini-batches and (sequence, head). Inside a block nothing waits for a state: with
known inner gradients G, W at any mini-batch is the saved W in front of the block plus products of tokens
before it, so that Q W and K W are attention with known values. Formulas in README.md.
"""

import triton
import triton.language as tl

from tttscale.kernels.triton_ops import block_of, load, mma, normalised, rates_of, store


@triton.jit(do_not_specialize=["T", "heads"])
def readout_kernel(
    q_ptr, k_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, g_ptr, w_saved_ptr, b_saved_ptr, out_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """out = q + LN(q W + b - (C (q k^T + 1)) G)."""
    head, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
    q, k = load(q_ptr + tokens + token, here), load(k_ptr + tokens + token, here)
    g = load(g_ptr + before * F + rows[:, None] * F + cols[None, :], here)
    square = cols[:, None] * F + cols[None, :]
    W = load(w_saved_ptr + saved * F * F + square, (cols[:, None] < F) & cols_ok)
    b = load(b_saved_ptr + saved * F + cols, cols < F)[None, :]
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)

    square0 = tl.zeros([BLOCK * K, BLOCK * K], tl.float32)
    scores = mma(q, tl.trans(k), square0, BF16) + 1
    zq = mma(q, W, tl.zeros([BLOCK * K, FP], tl.float32) + b, BF16)
    zq = mma(-scores * reads * lam[None, :], g, zq, BF16)
    normed, _ = normalised(zq, cols_ok, F)
    store(out_ptr + tokens + token, q + normed * gamma + beta, here)
