"""The outputs of TTT-MLP; the parallel part of its backward is in readout_backward.py.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); I = 4 F hidden features, IB of them in a tile; K tokens of a mini-batch; BLOCK mini-batches of
a block (64 tokens in bf16, 32 in fp32; no CUDA block).

One program (CTA) per block of mini-batches and scan. As in ../linear/readout.py, known inner gradients turn
both layers into attention with known values; the hidden layer is taken IB columns at a time.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.mlp.tiles import load_matrix2
from tttscale.kernels.triton_scan.ops import (
    block_of,
    gelu,
    load,
    mma,
    narrow,
    normalised,
    rates_of,
    store,
)


@triton.jit
def weights1(x, k, weights, lam, BF16: tl.constexpr):
    """The matrix [BLOCK K, BLOCK K] that multiplies G1 in layer 1, -C (x k^T + 1).

    weights: from `weights_of_pairs`; C is those times lam.
    """
    scores = mma(x, tl.trans(k), tl.zeros_like(weights), BF16) + 1
    return narrow(-scores * weights * lam[None, :], BF16)


@triton.jit
def layer1(x, pair_weights, w1_ptr, b1_ptr, g1, inner, cols, F: tl.constexpr, BF16: tl.constexpr):
    """x W1 + b1 + pair_weights G1, [BLOCK K, IB], for columns `inner`; pointers are those of the block."""
    I: tl.constexpr = 4 * F
    ok = (cols[:, None] < F) & (inner[None, :] < I)
    W1 = load(w1_ptr + cols[:, None] * I + inner[None, :], ok)
    b1 = load(b1_ptr + inner, inner < I)[None, :]
    return mma(pair_weights, g1, mma(x, W1, tl.zeros_like(g1) + b1, BF16), BF16)


@triton.jit(do_not_specialize=["T", "heads"])
def readout_kernel(
    q_ptr, k_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, g1_ptr, g2_ptr,
    w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr, out_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """out = q + LN(Xq W2 + b2 - (C (Xq X2^T + 1)) G2). Grid: (blocks, N)."""
    I: tl.constexpr = 4 * F
    head, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    q, k = load(q_ptr + tokens + token, here), load(k_ptr + tokens + token, here)  # [BLOCK K, FP]
    lam, reads, moves = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    read1, moved1 = weights1(q, k, reads, lam, BF16), weights1(k, k, moves, lam, BF16)

    b2 = load(b2_saved_ptr + saved * F + cols, cols < F)[None, :]
    zq, scores2 = tl.zeros_like(q) + b2, tl.zeros_like(reads)
    w1_at, b1_at = w1_saved_ptr + saved * F * I, b1_saved_ptr + saved * I
    for begin in range(0, I, IB):
        inner = begin + tl.arange(0, IB)
        wide_ok = rows_ok[:, None] & (inner[None, :] < I)
        # [BLOCK K, IB]
        g1 = load(g1_ptr + before * I + rows[:, None] * I + inner[None, :], wide_ok)
        xq = gelu(layer1(q, read1, w1_at, b1_at, g1, inner, cols, F, BF16))
        x2 = gelu(layer1(k, moved1, w1_at, b1_at, g1, inner, cols, F, BF16))
        zq = mma(xq, load_matrix2(w2_saved_ptr + saved * F * I, inner, cols, F), zq, BF16)
        scores2 = mma(xq, tl.trans(x2), scores2, BF16)
    g2 = load(g2_ptr + before * F + rows[:, None] * F + cols[None, :], here)
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    zq = mma(-(scores2 + 1) * reads * lam[None, :], g2, zq, BF16)
    normed, _ = normalised(zq, cols_ok, F)
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
    store(out_ptr + tokens + token, q + normed * gamma + beta, here)
