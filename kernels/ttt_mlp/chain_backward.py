"""The reverse chain of TTT-MLP, and W2 in front of every mini-batch, which it needs.

Tiles as in chain.py. Here they stay in memory: what a step needs beside the state's gradient fills the
registers. A step goes through the tiles twice, before and after the inner gradient's Jacobian, which needs
sums over all of them, and once more at the beginning of a block.
"""

import triton
import triton.language as tl

from tttscale.kernels.triton_inner_loss import inner_gradient_backward, load_jacobian, squares
from tttscale.kernels.triton_ops import load, mma, store
from tttscale.kernels.ttt_mlp.chain import load_matrix2, load_tile, store_tile, tokens_of_tile


@triton.jit(do_not_specialize=["T", "heads"])
def replay_kernel(
    step_ptr, x2_ptr, g2_ptr, w2_saved_ptr, w2_inside_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """W2 in front of each mini-batch, FP hidden rows at a time."""
    n = tl.program_id(1).to(tl.int64)
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    inner = tl.program_id(2) * FP + cols
    cols_ok = cols[None, :] < F
    at, ok = inner[:, None] * F + cols[None, :], (inner[:, None] < 4 * F) & cols_ok
    count, first = tl.cdiv(T, K), tl.program_id(0) * BLOCK
    block = n * tl.num_programs(0) + tl.program_id(0)
    W2 = load(w2_saved_ptr + block * 4 * F * F + at, ok)
    for i in range(first, tl.minimum(first + BLOCK, count)):
        inside = n * count + i
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
def _asked(
    k, step, inner, cols, dw1_ptr, db1_ptr, dw2_ptr, dg1_ptr, x2_ptr, slope_ptr, w2_ptr,
    row_ok, kappa2, from_g1,
    F: tl.constexpr, K: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """What a tile asks of a mini-batch: all of dG1, into memory, and its parts of kappa2 and dG2."""
    dW1, db1, dW2 = load_tile(dw1_ptr, db1_ptr, dw2_ptr, inner, cols, F)
    wide, wide_ok = tokens_of_tile(inner, row_ok, F, K)
    kappa1 = mma(dW1, tl.trans(k), tl.zeros(wide.shape, tl.float32), BF16) + db1[:, None]
    dg1 = load(dg1_ptr + wide, wide_ok) + step[None, :] * kappa1
    store(dg1_ptr + wide, dg1, wide_ok)
    kappa2 = mma(tl.trans(load(x2_ptr + wide, wide_ok)), dW2, kappa2, BF16)
    W2 = load_matrix2(w2_ptr, inner, cols, F)
    slope = load(slope_ptr + wide, wide_ok)
    return kappa2, mma(tl.trans(dg1 * slope), W2, from_g1, BF16)


@triton.jit
def _passed(
    k, step, g2, dz2, inner, cols, dw1_ptr, db1_ptr, dw2_ptr, dg1_ptr, x2_ptr, slope_ptr, w2_ptr,
    share_ptr, curved_ptr, dz1_ptr, row_ok,
    F: tl.constexpr, K: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """A tile's gradient through a mini-batch; dZ1 on the way."""
    dW1, db1, dW2 = load_tile(dw1_ptr, db1_ptr, dw2_ptr, inner, cols, F)
    wide, wide_ok = tokens_of_tile(inner, row_ok, F, K)
    W2 = load_matrix2(w2_ptr, inner, cols, F)
    dx2 = mma(dW2, tl.trans(g2), tl.zeros(wide.shape, tl.float32), BF16) * step[None, :]
    dx2 = mma(W2, tl.trans(dz2), dx2, BF16) + load(share_ptr + wide, wide_ok)
    dg1, slope = load(dg1_ptr + wide, wide_ok), load(slope_ptr + wide, wide_ok)
    dz1 = dg1 * load(curved_ptr + wide, wide_ok) + dx2 * slope
    store(dz1_ptr + wide, dz1, wide_ok)
    dW2 = mma(load(x2_ptr + wide, wide_ok), dz2, dW2, BF16)
    dW2 = mma(dg1 * slope, g2, dW2, BF16)
    dW1, db1 = mma(dz1, k, dW1, BF16), db1 + tl.sum(dz1, 1)
    store_tile(dw1_ptr, db1_ptr, dw2_ptr, inner, cols, dW1, db1, dW2, F)


@triton.jit
def _read(
    q, dz2q, rows_ok, inner, cols, dw1_ptr, db1_ptr, dw2_ptr, xq_ptr, dz1q_ptr,
    dw1_saved_ptr, db1_saved_ptr, saves,
    F: tl.constexpr, TOKENS: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """What a block's readers add to a tile's gradient, which is then that behind the block before it."""
    I: tl.constexpr = 4 * F
    dW1, db1, dW2 = load_tile(dw1_ptr, db1_ptr, dw2_ptr, inner, cols, F)
    wide, wide_ok = tokens_of_tile(inner, rows_ok, F, TOKENS)
    dz1q, xq = load(dz1q_ptr + wide, wide_ok), load(xq_ptr + wide, wide_ok)
    dW1, db1, dW2 = mma(dz1q, q, dW1, BF16), db1 + tl.sum(dz1q, 1), mma(xq, dz2q, dW2, BF16)
    store_tile(dw1_ptr, db1_ptr, dw2_ptr, inner, cols, dW1, db1, dW2, F)
    ok = (inner[:, None] < I) & (cols[None, :] < F) & saves
    store(dw1_saved_ptr + cols[None, :] * I + inner[:, None], dW1, ok)
    tl.store(db1_saved_ptr + inner, db1, mask=(inner < I) & saves)


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def advance_backward_kernel(
    k_ptr, q_ptr, step_ptr, gamma_ptr, g2_ptr, x2_ptr, xq_ptr, dz1q_ptr, dz2q_ptr,
    dg1_ptr, share_ptr, slope_ptr, curved_ptr, normed_ptr, p_ptr, plane_ptr, w2_inside_ptr,
    dw1_ptr, db1_ptr, dw2_ptr, db2_ptr, dz1_ptr, future_ptr, dw1_saved_ptr, db1_saved_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """The reverse chain through both layers, last mini-batch first.

    The gradient of the state is changed in place. `p`, `dg1` and `share` are what the readers of a token's
    own block have of dG2, dG1 and dX2; the first two receive the whole. dz1 may lie in the place of
    `share`. The last block's dW1 and db1 are saved by the caller.
    """
    I: tl.constexpr = 4 * F
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols, tile_rows = tl.arange(0, K), tl.arange(0, FP), tl.arange(0, IB)
    block_rows = tl.arange(0, BLOCK * K)
    cols_ok = cols[None, :] < F
    dw1_ptr, dw2_ptr, db1_ptr = dw1_ptr + n * F * I, dw2_ptr + n * F * I, db1_ptr + n * I
    db2 = load(db2_ptr + n * F + cols, cols < F)[None, :]
    _, gamma2_mean = squares(load(gamma_ptr + head * F + cols, cols < F)[None, :], F)
    plane = scans.to(tl.int64) * T
    token, tile = rows[:, None] * stride_t + cols[None, :], rows[:, None] * F + cols[None, :]
    count = tl.cdiv(T, K)
    final = (count - 1).to(tl.int64) * K
    tokens = (n // heads) * stride_b + head * stride_h + final * stride_t
    before = n * T + final
    for back in tl.range(0, count, disable_licm=True):
        i = count - 1 - back
        row_ok = rows < T - i * K
        here, wide = row_ok[:, None] & cols_ok, before * I
        k, step = load(k_ptr + tokens + token, here), load(step_ptr + before + rows, row_ok)
        w2_at = w2_inside_ptr + (n * count + i) * F * I

        kappa2 = tl.zeros([K, FP], tl.float32) + db2
        from_g1 = load(p_ptr + before * F + tile, here)
        tl.debug_barrier()  # the tiles were written by other threads
        for at in tl.range(0, I, IB, disable_licm=True):
            kappa2, from_g1 = _asked(
                k, step, at + tile_rows, cols, dw1_ptr, db1_ptr, dw2_ptr, dg1_ptr + wide,
                x2_ptr + wide, slope_ptr + wide, w2_at, row_ok, kappa2, from_g1, F, K, BF16,
            )  # fmt: skip

        p = from_g1 + step[:, None] * kappa2
        g2 = load(g2_ptr + before * F + tile, here)
        rstd, m, y_mean, a1, a2 = load_jacobian(plane_ptr + before, plane, rows, row_ok)
        normed = load(normed_ptr + before * F + tile, here)
        gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
        dz2 = inner_gradient_backward(
            p, g2, normed, rstd, m, y_mean, a1, a2, gamma * gamma, gamma2_mean, cols_ok, F
        )
        store(p_ptr + before * F + tile, p, here)
        tl.store(future_ptr + before + rows, tl.sum(kappa2 * g2, 1), mask=row_ok)

        db2 += tl.sum(dz2, 0)[None, :]
        tl.debug_barrier()
        for at in tl.range(0, I, IB, disable_licm=True):
            _passed(
                k, step, g2, dz2, at + tile_rows, cols, dw1_ptr, db1_ptr, dw2_ptr, dg1_ptr + wide,
                x2_ptr + wide, slope_ptr + wide, w2_at, share_ptr + wide, curved_ptr + wide,
                dz1_ptr + wide, row_ok, F, K, BF16,
            )  # fmt: skip
        if i % BLOCK == 0:
            rows_ok = block_rows < T - i * K
            ok = rows_ok[:, None] & cols_ok
            q = load(q_ptr + tokens + block_rows[:, None] * stride_t + cols[None, :], ok)
            dz2q = load(dz2q_ptr + before * F + block_rows[:, None] * F + cols[None, :], ok)
            db2 += tl.sum(dz2q, 0)[None, :]
            saved = n * tl.cdiv(T, BLOCK * K) + i // BLOCK - 1
            tl.debug_barrier()
            for at in tl.range(0, I, IB, disable_licm=True):
                _read(
                    q, dz2q, rows_ok, at + tile_rows, cols, dw1_ptr, db1_ptr, dw2_ptr,
                    xq_ptr + wide, dz1q_ptr + wide, dw1_saved_ptr + saved * F * I,
                    db1_saved_ptr + saved * I, i > 0, F, BLOCK * K, BF16,
                )  # fmt: skip
        tokens -= K * stride_t
        before -= K
    tl.store(db2_ptr + n * F + cols[None, :], db2, mask=cols_ok)
