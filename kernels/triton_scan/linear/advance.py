"""The serial kernel of TTT-Linear's forward: W(t) -> W(t+1), one mini-batch after the other.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); K tokens of a mini-batch; BLOCK mini-batches of a block (64 tokens in bf16, 32 in fp32; no CUDA
block); IB rows of a tile of the state. Offsets: `before` tokens of all scans before the block, `left` tokens
from it on.

Inside a block of mini-batches the state is not changed: the update by mini-batch j changes Z of a later
mini-batch m by (K_m K_j^T + 1) times the scaled inner gradients of j, a product of [K, K] with [K, f]. That
product and LayerNorm's sums are the whole chain of dependences between two mini-batches. The state itself is
read and updated once per block, in tiles of IB rows over all columns. So Triton lays the warps of every
product along its columns, and warps exchange nothing but LayerNorm's row sums (a shuffle in the warp, then
shared memory). What is not serial is in readout.py; formulas in ../../ttt_linear.md.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import inner_gradient, squares
from tttscale.kernels.triton_scan.linear.tiles import (
    _carried,
    _load_centred,
    _plus_outer,
    _save,
    _store_whole,
    _times,
)
from tttscale.kernels.triton_scan.ops import load, mma, store


@triton.jit(do_not_specialize=["T", "heads"])
def advance_kernel(
    k_ptr, u_ptr, step_ptr, scores_ptr, gamma_ptr, w_ptr, b_ptr,
    g_ptr, w_saved_ptr, b_saved_ptr, w_last_ptr, b_last_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """Z = k W + b, G = g(Z), W += k^T (step G), b += step^T G for each mini-batch in turn.

    Grid: (N,). The state, W in tiles and B, and Z of a block's mini-batches stay in registers; in bf16 what
    the next block reads is copied ahead into shared memory. LayerNorm does not see the mean over the output
    dim: kept out of the chain, centred sums are exact.
    """
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]  # [1, FP]
    gamma2, gamma2_mean = squares(gamma, F)
    w_ptr, b_ptr = w_ptr + n * F * F, b_ptr + n * F
    W, B = _load_centred(w_ptr, b_ptr, cols, F, FP, K, IB)

    tokens, before = k_ptr + (n // heads) * stride_b + head * stride_h, n * T
    tile, ones = rows[:, None] * F + cols[None, :], tl.full([K, K], 1.0, tl.float32)
    blocks = tl.cdiv(T, BLOCK * K)
    for i in range(0, blocks):
        _save(w_saved_ptr, b_saved_ptr, n * blocks + i, W, B, cols, F, IB)
        left = T - i * BLOCK * K
        z = ()
        for j in tl.static_range(BLOCK):
            x = tokens + j * K * stride_t
            z = z + (_times(x, stride_t, left - j * K, W, B, F, K, IB, BF16),)
        for j in tl.static_range(BLOCK):
            at = before + j * K
            row_ok = rows < left - j * K
            here = row_ok[:, None] & cols_ok
            # [K, FP], [K]
            u, step = load(u_ptr + at * F + tile, here), load(step_ptr + at + rows, row_ok)
            g = inner_gradient(z[j], u, gamma2, gamma2_mean, cols_ok, F)
            h = g * step[:, None]
            z = _carried(scores_ptr, before, left, j, h, z, j + 1, BLOCK, K, BLOCK, BF16)
            store(g_ptr + at * F + tile, g, here)
            x = tokens + j * K * stride_t
            W = _plus_outer(x, stride_t, left - j * K, h, W, F, K, IB, BF16)
            B = mma(ones, h, B, BF16)
        tokens += BLOCK * K * stride_t
        before += BLOCK * K
    _store_whole(w_last_ptr + n * F * F, b_last_ptr + n * F, w_ptr, b_ptr, W, B, cols, F, IB)
