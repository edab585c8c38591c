"""The serial kernels of TTT-MLP's forward: (W1, W2)(t) -> (W1, W2)(t+1). Backwards: advance_backward.py.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); I = 4 F hidden features, IB of them in a tile; K tokens of a mini-batch; BLOCK mini-batches of
a block (64 tokens in bf16, 32 in fp32; no CUDA block).

One program (CTA) per scan. The hidden layer is taken in tiles of IB features, which are a tile's rows (W1
transposed): so its matrices are the left operands of all products but one, and need not change their register
layout. Between mini-batches the tiles stay in registers (`advance_kernel`) or, where they do not fit, in
global memory, that is in the L2 cache (`advance_streamed_kernel`, which changes the state in place). What is
not serial is in readout.py; formulas and layout of the saved tensors in ../../ttt_mlp.md.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import inner_gradient, squares
from tttscale.kernels.triton_scan.mlp.fragments import (
    from_fragments,
    load_state,
    store_state,
    to_fragments,
)
from tttscale.kernels.triton_scan.mlp.tiles import load_tile, store_tile, tokens_of_tile
from tttscale.kernels.triton_scan.ops import gelu, gelu_and_slope, load, mma, store


@triton.jit
def _hidden(W1, b1, k, K: tl.constexpr, BF16: tl.constexpr):
    """Z1^T of a tile, [IB, K], from W1^T [IB, FP], b1 [IB] and k [K, FP]."""
    return mma(W1, tl.trans(k), tl.zeros([W1.shape[0], K], tl.float32), BF16) + b1[:, None]


@triton.jit
def _update(
    W1, b1, W2, k, moved, step, g2, g1_ptr, inner, updated, K: tl.constexpr, BF16: tl.constexpr,
    F: tl.constexpr,
):  # fmt: skip
    """Store G1 [IB, K] of a mini-batch, and return the tile after it. `moved` is step k, [K, FP]."""
    x2, slope = gelu_and_slope(_hidden(W1, b1, k, K, BF16))
    g1 = mma(W2, tl.trans(g2), tl.zeros(x2.shape, tl.float32), BF16) * slope
    wide, wide_ok = tokens_of_tile(inner, updated, F, K)
    store(g1_ptr + wide, g1, wide_ok)
    W1, W2 = mma(g1, moved, W1, BF16), mma(x2, g2 * step[:, None], W2, BF16)
    return W1, b1 + tl.sum(g1 * step[None, :], 1), W2


@triton.jit(do_not_specialize=["T", "heads"])
def advance_kernel(
    k_ptr, moved_ptr, u_ptr, step_ptr, gamma_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr,
    w1_last_ptr, b1_last_ptr, w2_last_ptr, b2_last_ptr,
    g1_ptr, g2_ptr, w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """Z1 = k W1, X2 = gelu(Z1), G2 = g(X2 W2), G1 = (G2 W2^T) gelu'(Z1), then both updates.

    Grid: (N,). All tiles of W1, b1 and W2 stay in registers from the first mini-batch to the last. W2 and b2
    come centred over the output dim. Iteration i updates a tile with mini-batch i and reads it at once for
    mini-batch i + 1: nothing of one mini-batch occupies registers until the other tiles are done.
    """
    I: tl.constexpr = 4 * F
    TILES: tl.constexpr = (I + IB - 1) // IB
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    gamma2, gamma2_mean = squares(gamma, F)
    w1_ptr, w2_ptr, b1_ptr = w1_ptr + n * F * I, w2_ptr + n * F * I, b1_ptr + n * I
    tiles = ()
    for part in tl.static_range(TILES):
        tiles = tiles + load_tile(w1_ptr, b1_ptr, w2_ptr, part * IB + tl.arange(0, IB), cols, F)
    b2 = load(b2_ptr + n * F + cols, cols < F)[None, :]

    tokens, before = (n // heads) * stride_b + head * stride_h, n * T
    token, tile = rows[:, None] * stride_t + cols[None, :], rows[:, None] * F + cols[None, :]
    count, saved = tl.cdiv(T, K), n * tl.cdiv(T, BLOCK * K)
    nothing = tl.zeros([K, FP], tl.float32)
    k, g2, step = nothing, nothing, tl.zeros([K], tl.float32)  # of mini-batch -1
    for i in tl.range(-1, count, disable_licm=True):
        left = T - (i + 1) * K
        row_ok, updated = rows < left, (rows < left + K) & (i >= 0)
        here = row_ok[:, None] & cols_ok
        moved = load(moved_ptr + (before - K) * F + tile, updated[:, None] & cols_ok)
        next_k = load(k_ptr + tokens + token, here)  # [K, FP]
        u = load(u_ptr + before * F + tile, here)  # [K, FP]
        starts_block = ((i + 1) % BLOCK == 0) & (i + 1 < count)
        z2, after = nothing, ()
        for part in tl.static_range(TILES):
            inner = part * IB + tl.arange(0, IB)
            W1, b1, W2 = _update(
                tiles[3 * part], tiles[3 * part + 1], tiles[3 * part + 2], k, moved, step, g2,
                g1_ptr + (before - K) * I, inner, updated, K, BF16, F,
            )  # fmt: skip
            if starts_block:
                at = saved * F * I
                store_tile(
                    w1_saved_ptr + at, b1_saved_ptr + saved * I, w2_saved_ptr + at,
                    inner, cols, W1, b1, W2, F,
                )  # fmt: skip
            z2 = mma(tl.trans(gelu(_hidden(W1, b1, next_k, K, BF16))), W2, z2, BF16)
            after = after + (W1, b1, W2)
        tiles = after
        b2 += tl.sum(g2 * step[:, None], 0)[None, :]
        if starts_block:
            tl.store(b2_saved_ptr + saved * F + cols[None, :], b2, mask=cols_ok)
            saved += 1
        g2 = tl.where(here, inner_gradient(z2 + b2, u, gamma2, gamma2_mean, cols_ok, F), 0.0)
        store(g2_ptr + before * F + tile, g2, here)
        k, step = next_k, load(step_ptr + before + rows, row_ok)
        tokens += K * stride_t
        before += K
    # Pointers of their own, formed here: those of the state before would occupy registers all the way.
    tl.store(b2_last_ptr + n * F + cols[None, :], b2, mask=cols_ok)
    w1_last_ptr, w2_last_ptr = w1_last_ptr + n * F * I, w2_last_ptr + n * F * I
    for part in tl.static_range(TILES):
        store_tile(
            w1_last_ptr, b1_last_ptr + n * I, w2_last_ptr, part * IB + tl.arange(0, IB), cols,
            tiles[3 * part], tiles[3 * part + 1], tiles[3 * part + 2], F,
        )  # fmt: skip


@triton.jit(do_not_specialize=["T", "heads"])
def advance_streamed_kernel(
    k_ptr, moved_ptr, u_ptr, step_ptr, gamma_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr,
    w1_tiles_ptr, w2_tiles_ptr, g1_ptr, g2_ptr, w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """The same with a state in memory (w1_tiles, w2_tiles in fragment order); a mini-batch visits it twice.

    Grid: (N,). One tile at a time is in registers.
    """
    I: tl.constexpr = 4 * F
    ROWS: tl.constexpr = (I + IB - 1) // IB * IB
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols, tile_rows = tl.arange(0, K), tl.arange(0, FP), tl.arange(0, IB)
    cols_ok = cols[None, :] < F
    w1_ptr, w2_ptr, b1_ptr = w1_ptr + n * F * I, w2_ptr + n * F * I, b1_ptr + n * I
    w1_tiles_ptr, w2_tiles_ptr = w1_tiles_ptr + n * ROWS * FP, w2_tiles_ptr + n * ROWS * FP
    to_fragments(w1_ptr, b1_ptr, w2_ptr, w1_tiles_ptr, w2_tiles_ptr, cols, F, IB, BF16)
    b2 = load(b2_ptr + n * F + cols, cols < F)[None, :]
    _, gamma2_mean = squares(load(gamma_ptr + head * F + cols, cols < F)[None, :], F)
    token, tile = rows[:, None] * stride_t + cols[None, :], rows[:, None] * F + cols[None, :]
    tokens, before = (n // heads) * stride_b + head * stride_h, n * T
    for i in tl.range(0, tl.cdiv(T, K), disable_licm=True):
        row_ok = rows < T - i * K
        here = row_ok[:, None] & cols_ok
        k, u = load(k_ptr + tokens + token, here), load(u_ptr + before * F + tile, here)  # [K, FP]
        starts_block, saved = i % BLOCK == 0, n * tl.cdiv(T, BLOCK * K) + i // BLOCK
        z2 = tl.zeros([K, FP], tl.float32) + b2
        tl.debug_barrier()  # the tiles were written by other threads
        for at in tl.range(0, I, IB, disable_licm=True):
            inner = at + tile_rows
            W1, b1, W2 = load_state(w1_tiles_ptr, b1_ptr, w2_tiles_ptr, at, F, FP, IB, BF16)
            if starts_block:
                store_tile(
                    w1_saved_ptr + saved * F * I, b1_saved_ptr + saved * I,
                    w2_saved_ptr + saved * F * I, inner, cols, W1, b1, W2, F,
                )  # fmt: skip
            z2 = mma(tl.trans(gelu(_hidden(W1, b1, k, K, BF16))), W2, z2, BF16)
        if starts_block:
            tl.store(b2_saved_ptr + saved * F + cols[None, :], b2, mask=cols_ok)
        gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
        g2 = tl.where(here, inner_gradient(z2, u, gamma * gamma, gamma2_mean, cols_ok, F), 0.0)
        store(g2_ptr + before * F + tile, g2, here)
        moved = load(moved_ptr + before * F + tile, here)
        step = load(step_ptr + before + rows, row_ok)
        b2 += tl.sum(g2 * step[:, None], 0)[None, :]
        tl.debug_barrier()  # all have read the tiles
        for at in tl.range(0, I, IB, disable_licm=True):
            inner = at + tile_rows
            W1, b1, W2 = load_state(w1_tiles_ptr, b1_ptr, w2_tiles_ptr, at, F, FP, IB, BF16)
            W1, b1, W2 = _update(
                W1, b1, W2, k, moved, step, g2, g1_ptr + before * I, inner, row_ok, K, BF16, F
            )
            store_state(w1_tiles_ptr, b1_ptr, w2_tiles_ptr, at, W1, b1, W2, F, BF16)
        tokens += K * stride_t
        before += K
    tl.store(b2_ptr + n * F + cols[None, :], b2, mask=cols_ok)
    tl.debug_barrier()
    from_fragments(w1_ptr, b1_ptr, w2_ptr, w1_tiles_ptr, w2_tiles_ptr, cols, F, IB, BF16)
