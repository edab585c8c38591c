"""The reverse chain of TTT-MLP, and W2 in front of every mini-batch, which it needs. As in chain.py."""

import triton
import triton.language as tl

from tttscale.kernels.triton_inner_loss import inner_gradient_backward, load_jacobian
from tttscale.kernels.triton_ops import load, mma, store
from tttscale.kernels.ttt_mlp.chain import load_tile, load_tiles, store_tile, store_tiles


@triton.jit(do_not_specialize=["T", "heads", "begin", "end"])
def replay_kernel(
    step_ptr, x2_ptr, g2_ptr, w2_saved_ptr, w2_inside_ptr,
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
    for i in range(first, tl.minimum(first + BLOCK, end)):
        inside = n * (end - begin) + i - begin
        store(w2_inside_ptr + inside * 4 * F * F + at, W2, ok)
        before = n * T + i * K
        row_ok = i * K + rows < T
        step = load(step_ptr + before + rows, row_ok)[:, None]
        x2_ok = row_ok[None, :] & (inner[:, None] < 4 * F)
        x2 = load(x2_ptr + before * 4 * F + rows[None, :] * 4 * F + inner[:, None], x2_ok)
        here = row_ok[:, None] & cols_ok
        g2 = load(g2_ptr + before * F + rows[:, None] * F + cols[None, :], here)
        W2 = mma(x2, g2 * step, W2, BF16)


@triton.jit
def _block_readers(
    dW1, db1, dW2, inner, cols, q_ptr, dz1q_ptr, xq_ptr, dz2q_ptr, stride_t, left,
    F: tl.constexpr, TOKENS: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """What the readers of a block add to a tile's gradient, all at once."""
    rows = tl.arange(0, TOKENS)
    ok = (rows[:, None] < left) & (cols[None, :] < F)
    wide = rows[None, :] * (4 * F) + inner[:, None]
    wide_ok = (rows[None, :] < left) & (inner[:, None] < 4 * F)
    dz1q, xq = load(dz1q_ptr + wide, wide_ok), load(xq_ptr + wide, wide_ok)
    q = load(q_ptr + rows[:, None] * stride_t + cols[None, :], ok)
    dz2q = load(dz2q_ptr + rows[:, None] * F + cols[None, :], ok)
    db1 += tl.sum(dz1q, 1)
    return mma(dz1q, q, dW1, BF16), db1, mma(xq, dz2q, dW2, BF16)


@triton.jit(do_not_specialize=["T", "heads", "scans", "begin", "end"])
def advance_backward_kernel(
    k_ptr, q_ptr, step_ptr, gamma_ptr, g2_ptr, x2_ptr, xq_ptr, dz1q_ptr, dz2q_ptr,
    local_ptr, share_ptr, slope_ptr, curved_ptr, normed_ptr, p_ptr, plane_ptr, w2_inside_ptr,
    dw1_ptr, db1_ptr, dw2_ptr, db2_ptr, dz1_ptr, future_ptr, dw1_saved_ptr, db1_saved_ptr,
    stride_b, stride_h, stride_t, begin, end, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """The reverse chain through both layers over the mini-batches [begin, end), last one first.

    The gradient of the state is changed in place. `p`, `local` and `share` are what the readers of a token's
    own block have of dG2, dG1 and dX2; p_ptr receives the whole. Round i of the loop passes a tile's gradient
    back through mini-batch i and reads it at once for mini-batch i - 1.
    """
    I: tl.constexpr = 4 * F
    TILES: tl.constexpr = (I + IB - 1) // IB
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    gamma2 = gamma * gamma
    dw1_ptr, dw2_ptr, db1_ptr = dw1_ptr + n * F * I, dw2_ptr + n * F * I, db1_ptr + n * I
    tiles = load_tiles(dw1_ptr, db1_ptr, dw2_ptr, cols, F, IB, RESIDENT)
    db2 = load(db2_ptr + n * F + cols, cols < F)[None, :]

    count, blocks, plane = tl.cdiv(T, K), tl.cdiv(T, BLOCK * K), scans.to(tl.int64) * T
    tokens = (n // heads) * stride_b + head * stride_h + end.to(tl.int64) * K * stride_t
    token, tile = rows[:, None] * stride_t + cols[None, :], rows[:, None] * F + cols[None, :]
    before, inside = n * T + end.to(tl.int64) * K, (n + 1) * (end - begin)
    wide0, narrow0 = tl.zeros([IB, K], tl.float32), tl.zeros([K, FP], tl.float32)
    k, g2, dz2, step = narrow0, narrow0, narrow0, tl.zeros([K], tl.float32)  # of mini-batch `end`
    for back in range(0, end - begin + 1):
        if not RESIDENT:
            tl.debug_barrier()  # the tiles in memory were written by other threads
        i = end - back
        left = T - i * K
        row_ok, next_ok = (rows < left) & (i < end), (rows < left + K) & (i > begin)
        next_here = next_ok[:, None] & cols_ok
        next_k = load(k_ptr + tokens - K * stride_t + token, next_here)
        next_step = load(step_ptr + before - K + rows, next_ok)
        from_g1, kappa2, after = narrow0, narrow0, (0,)
        db2 += tl.sum(dz2, 0)[None, :]
        starts_block, ends_block = (i % BLOCK == 0) & (i < end), (i % BLOCK == 0) | (i == count)
        if starts_block:
            block_rows = tl.arange(0, BLOCK * K)
            block_ok = (block_rows[:, None] < left) & cols_ok
            at = before * F + block_rows[:, None] * F + cols[None, :]
            db2 += tl.sum(load(dz2q_ptr + at, block_ok), 0)[None, :]
        for part in tl.static_range(TILES):
            inner = part * IB + tl.arange(0, IB)
            if RESIDENT:
                dW1, db1, dW2 = tiles[3 * part + 1], tiles[3 * part + 2], tiles[3 * part + 3]
            else:
                dW1, db1, dW2 = load_tile(dw1_ptr, db1_ptr, dw2_ptr, inner, cols, F)
            # Back through mini-batch i.
            wide = before * I + rows[None, :] * I + inner[:, None]
            wide_ok = row_ok[None, :] & (inner[:, None] < I)
            at2, ok2 = inner[:, None] * F + cols[None, :], (inner[:, None] < I) & cols_ok
            kappa1 = mma(dW1, tl.trans(k), wide0, BF16) + db1[:, None]
            dg1 = load(local_ptr + wide, wide_ok) + step[None, :] * kappa1
            dx2 = mma(dW2, tl.trans(g2), wide0, BF16) * step[None, :]
            W2 = load(w2_inside_ptr + inside * F * I + at2, ok2 & (i < end))
            dx2 = mma(W2, tl.trans(dz2), dx2 + load(share_ptr + wide, wide_ok), BF16)
            slope = load(slope_ptr + wide, wide_ok)
            dz1 = dg1 * load(curved_ptr + wide, wide_ok) + dx2 * slope
            store(dz1_ptr + wide, dz1, wide_ok)
            dW2 = mma(load(x2_ptr + wide, wide_ok), dz2, dW2, BF16)
            dW2 = mma(dg1 * slope, g2, dW2, BF16)
            dW1 = mma(dz1, k, dW1, BF16)
            db1 += tl.sum(dz1, 1)
            if starts_block:
                dW1, db1, dW2 = _block_readers(
                    dW1, db1, dW2, inner, cols, q_ptr + tokens, dz1q_ptr + before * I,
                    xq_ptr + before * I, dz2q_ptr + before * F, stride_t, left, F, BLOCK * K, BF16,
                )  # fmt: skip
            if ends_block & (i > begin):
                at1 = cols[None, :] * I + inner[:, None]
                saved = n * blocks + (i - 1) // BLOCK
                store(dw1_saved_ptr + saved * F * I + at1, dW1, ok2)
                tl.store(db1_saved_ptr + saved * I + inner, db1, mask=inner < I)
            # What mini-batch i - 1 is asked for.
            wide -= K * I
            wide_ok = next_ok[None, :] & (inner[:, None] < I)
            kappa1 = mma(dW1, tl.trans(next_k), wide0, BF16) + db1[:, None]
            dg1 = load(local_ptr + wide, wide_ok) + next_step[None, :] * kappa1
            kappa2 = mma(tl.trans(load(x2_ptr + wide, wide_ok)), dW2, kappa2, BF16)
            W2 = load(w2_inside_ptr + (inside - 1) * F * I + at2, ok2 & (i > begin))
            slope = load(slope_ptr + wide, wide_ok)
            from_g1 = mma(tl.trans(dg1 * slope), W2, from_g1, BF16)
            if RESIDENT:
                after = after + (dW1, db1, dW2)
            else:
                store_tile(dw1_ptr, db1_ptr, dw2_ptr, inner, cols, dW1, db1, dW2, F)
        tiles = after
        k, step = next_k, next_step
        tokens -= K * stride_t
        before -= K
        inside -= 1
        kappa2 += db2
        p = from_g1 + load(p_ptr + before * F + tile, next_here) + step[:, None] * kappa2
        g2 = load(g2_ptr + before * F + tile, next_here)
        rstd, m, y_mean, a1, a2 = load_jacobian(plane_ptr + before, plane, rows, next_ok)
        normed = load(normed_ptr + before * F + tile, next_here)
        dz2 = inner_gradient_backward(
            p, g2, normed, rstd, m, y_mean, a1, a2, gamma2, next_here, F
        )
        store(p_ptr + before * F + tile, p, next_here)
        tl.store(future_ptr + before + rows, tl.sum(kappa2 * g2, 1), mask=next_ok)
    store_tiles(dw1_ptr, db1_ptr, dw2_ptr, cols, tiles, F, IB, RESIDENT)
    tl.store(db2_ptr + n * F + cols[None, :], db2, mask=cols_ok)
