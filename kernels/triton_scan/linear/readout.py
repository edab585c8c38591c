"""The outputs of TTT-Linear; the parallel part of its backward is in readout_backward.py.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); K tokens of a mini-batch; BLOCK mini-batches of a block (64 tokens in bf16, 32 in fp32; no CUDA
block).

One program (CTA) per block of mini-batches and scan. Inside a block nothing waits for a state: with known
inner gradients G, W at any mini-batch is the saved W before the block plus products of the tokens between, so
that Q W and K W are attention with known values. Formulas in ../../ttt_linear.md.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.ops import block_of, load, mma, normalised, rates_of, store


@triton.jit
def load_state(w_ptr, b_ptr, cols, F: tl.constexpr):
    """Load W [FP, FP] and b [1, FP] before a block; pointers are those of the block."""
    ok = (cols[:, None] < F) & (cols[None, :] < F)
    W = load(w_ptr + cols[:, None] * F + cols[None, :], ok)
    return W, load(b_ptr + cols, cols < F)[None, :]


@triton.jit
def read_state(x, k, g, W, b, weights, lam, BF16: tl.constexpr):
    """x W + b - (C (x k^T + 1)) G, and x k^T + 1; weights: from `weights_of_pairs`, C is those times lam."""
    scores = mma(x, tl.trans(k), tl.zeros_like(weights), BF16) + 1
    z = mma(x, W, tl.zeros_like(x) + b, BF16)
    return mma(-scores * weights * lam[None, :], g, z, BF16), scores


@triton.jit(do_not_specialize=["T", "heads"])
def readout_kernel(
    q_ptr, k_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, g_ptr, w_saved_ptr, b_saved_ptr, out_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """out = q + LN(q W + b - (C (q k^T + 1)) G). Grid: (blocks, N)."""
    head, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
    # [BLOCK K, FP], as is g; W is [FP, FP].
    q, k = load(q_ptr + tokens + token, here), load(k_ptr + tokens + token, here)
    g = load(g_ptr + before * F + rows[:, None] * F + cols[None, :], here)
    W, b = load_state(w_saved_ptr + saved * F * F, b_saved_ptr + saved * F, cols, F)
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    zq, _ = read_state(q, k, g, W, b, reads, lam, BF16)
    normed, _ = normalised(zq, cols_ok, F)
    store(out_ptr + tokens + token, q + normed * gamma + beta, here)
