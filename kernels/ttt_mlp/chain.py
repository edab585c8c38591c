"""The serial kernel of TTT-MLP: (W1, W2)(t) -> (t+1). Backwards: chain_backward.py.

One program per (sequence, head) goes through the mini-batches, and for each through the hidden layer in tiles
of IB features. A tile lies with its features as rows, W1 transposed, so that its matrices are the left
operands of all products but one and need not change their layout. Between mini-batches the tiles stay in
registers (RESIDENT) or, where they do not fit, in memory. What does not stand on the chain is in parallel.py;
formulas and layout of the saved tensors in README.md.
"""

import triton
import triton.language as tl

from tttscale.kernels.triton_inner_loss import inner_gradient
from tttscale.kernels.triton_ops import gelu, gelu_and_slope, load, mma, store


@triton.jit
def load_tile(w1_ptr, b1_ptr, w2_ptr, inner, cols, F: tl.constexpr):
    """W1^T and W2 of the hidden features `inner`, [IB, FP] each, and b1 [IB]."""
    ok = (inner[:, None] < 4 * F) & (cols[None, :] < F)
    W1 = load(w1_ptr + cols[None, :] * (4 * F) + inner[:, None], ok)
    W2 = load(w2_ptr + inner[:, None] * F + cols[None, :], ok)
    return W1, load(b1_ptr + inner, inner < 4 * F), W2


@triton.jit
def store_tile(w1_ptr, b1_ptr, w2_ptr, inner, cols, W1, b1, W2, F: tl.constexpr):
    """The inverse of `load_tile`."""
    ok = (inner[:, None] < 4 * F) & (cols[None, :] < F)
    store(w1_ptr + cols[None, :] * (4 * F) + inner[:, None], W1, ok)
    store(w2_ptr + inner[:, None] * F + cols[None, :], W2, ok)
    tl.store(b1_ptr + inner, b1, mask=inner < 4 * F)


@triton.jit
def load_tiles(
    w1_ptr, b1_ptr, w2_ptr, cols, F: tl.constexpr, IB: tl.constexpr, RESIDENT: tl.constexpr
):  # fmt: skip
    """All tiles one after the other as (W1, b1, W2, W1, ...); nothing that counts if not RESIDENT."""
    tiles = (0,)
    for part in tl.static_range((4 * F + IB - 1) // IB if RESIDENT else 0):
        inner = part * IB + tl.arange(0, IB)
        tiles = tiles + load_tile(w1_ptr, b1_ptr, w2_ptr, inner, cols, F)
    return tiles


@triton.jit
def store_tiles(
    w1_ptr, b1_ptr, w2_ptr, cols, tiles, F: tl.constexpr, IB: tl.constexpr, RESIDENT: tl.constexpr
):  # fmt: skip
    """The inverse of `load_tiles`."""
    for part in tl.static_range((4 * F + IB - 1) // IB if RESIDENT else 0):
        inner = part * IB + tl.arange(0, IB)
        W1, b1, W2 = tiles[3 * part + 1], tiles[3 * part + 2], tiles[3 * part + 3]
        store_tile(w1_ptr, b1_ptr, w2_ptr, inner, cols, W1, b1, W2, F)


@triton.jit(do_not_specialize=["T", "heads"])
def advance_kernel(
    k_ptr, moved_ptr, u_ptr, step_ptr, gamma_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr,
    g1_ptr, g2_ptr, w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """Z1 = k W1, X2 = gelu(Z1), G2 = g(X2 W2), G1 = (G2 W2^T) gelu'(Z1), then both updates.

    The state is changed in place; W2 and b2 come centred over the output dim. Round i of the loop updates
    a tile with mini-batch i and reads it at once for mini-batch i + 1, so that each tile is visited once.
    """
    I: tl.constexpr = 4 * F
    TILES: tl.constexpr = (I + IB - 1) // IB
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    gamma2 = gamma * gamma
    w1_ptr, w2_ptr, b1_ptr = w1_ptr + n * F * I, w2_ptr + n * F * I, b1_ptr + n * I
    tiles = load_tiles(w1_ptr, b1_ptr, w2_ptr, cols, F, IB, RESIDENT)
    b2 = load(b2_ptr + n * F + cols, cols < F)[None, :]

    tokens, before = (n // heads) * stride_b + head * stride_h, n * T
    token, tile = rows[:, None] * stride_t + cols[None, :], rows[:, None] * F + cols[None, :]
    count, saved = tl.cdiv(T, K), n * tl.cdiv(T, BLOCK * K)
    wide0, narrow0 = tl.zeros([IB, K], tl.float32), tl.zeros([K, FP], tl.float32)
    k, moved, g2, step = narrow0, narrow0, narrow0, tl.zeros([K], tl.float32)  # of mini-batch -1
    for i in range(-1, count):
        if not RESIDENT:
            tl.debug_barrier()  # the tiles in memory were written by other threads
        left = T - (i + 1) * K
        row_ok, updated = rows < left, (rows < left + K) & (i >= 0)
        here = row_ok[:, None] & cols_ok
        next_k = load(k_ptr + tokens + token, here)
        u = load(u_ptr + before * F + tile, here)
        step_g2, z2, after = g2 * step[:, None], narrow0, (0,)
        starts_block = ((i + 1) % BLOCK == 0) & (i + 1 < count)
        for part in tl.static_range(TILES):
            inner = part * IB + tl.arange(0, IB)
            if RESIDENT:
                W1, b1, W2 = tiles[3 * part + 1], tiles[3 * part + 2], tiles[3 * part + 3]
            else:
                W1, b1, W2 = load_tile(w1_ptr, b1_ptr, w2_ptr, inner, cols, F)
            x2, slope = gelu_and_slope(mma(W1, tl.trans(k), wide0, BF16) + b1[:, None])
            g1 = mma(W2, tl.trans(g2), wide0, BF16) * slope
            wide = rows[None, :] * I + inner[:, None]
            wide_ok = updated[None, :] & (inner[:, None] < I)
            store(g1_ptr + (before - K) * I + wide, g1, wide_ok)
            W1, W2 = mma(g1, moved, W1, BF16), mma(x2, step_g2, W2, BF16)
            b1 += tl.sum(g1 * step[None, :], 1)
            if starts_block:
                at = saved * F * I
                store_tile(
                    w1_saved_ptr + at, b1_saved_ptr + saved * I, w2_saved_ptr + at,
                    inner, cols, W1, b1, W2, F,
                )  # fmt: skip
            x2 = gelu(mma(W1, tl.trans(next_k), wide0, BF16) + b1[:, None])
            z2 = mma(tl.trans(x2), W2, z2, BF16)
            if RESIDENT:
                after = after + (W1, b1, W2)
            else:
                store_tile(w1_ptr, b1_ptr, w2_ptr, inner, cols, W1, b1, W2, F)
        tiles = after
        b2 += tl.sum(step_g2, 0)[None, :]
        if starts_block:
            tl.store(b2_saved_ptr + saved * F + cols[None, :], b2, mask=cols_ok)
            saved += 1
        g2 = tl.where(here, inner_gradient(z2 + b2, u, gamma2, cols_ok, F), 0.0)
        store(g2_ptr + before * F + tile, g2, here)
        k, moved = next_k, load(moved_ptr + before * F + tile, here)
        step = load(step_ptr + before + rows, row_ok)
        tokens += K * stride_t
        before += K
    store_tiles(w1_ptr, b1_ptr, w2_ptr, cols, tiles, F, IB, RESIDENT)
    tl.store(b2_ptr + n * F + cols[None, :], b2, mask=cols_ok)
