"""The reverse chain of TTT-MLP.

Tiles as in chain.py. Here they stay in memory, in fragment order (fragments.py): what a step needs beside
the state's gradient fills the registers. A step goes through the tiles twice, before and after the inner
gradient's Jacobian, which needs sums over all of them, and once more at the beginning of a block.
"""

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import inner_gradient_backward, load_jacobian, squares
from tttscale.kernels.triton_scan.mlp.fragments import (
    from_fragments,
    hidden_width,
    load_hidden,
    load_state,
    store_state,
    to_fragments,
)
from tttscale.kernels.triton_scan.mlp.tiles import load_matrix2, tokens_of_tile
from tttscale.kernels.triton_scan.ops import load, mma, narrow, store


@triton.jit
def _enter(keys, step_ptr, p_ptr, before, rows, tile, row_ok, cols_ok, F: tl.constexpr):
    """What a mini-batch begins with: its k, its step, and its readers' share of dG2."""
    here = row_ok[:, None] & cols_ok
    local2 = load(p_ptr + before * F + tile, here)
    return load(keys, here), load(step_ptr + before + rows, row_ok), local2


@triton.jit
def _turn(
    g2_ptr, normed_ptr, plane_ptr, before, plane, rows, tile, row_ok, cols_ok, F: tl.constexpr
):  # fmt: skip
    """What dG2 meets: G2, x^ and the row constants of the Jacobian."""
    here, at = row_ok[:, None] & cols_ok, before * F + tile
    rstd, m, y_mean, a1, bend = load_jacobian(plane_ptr + before, plane, rows, row_ok)
    return load(g2_ptr + at, here), load(normed_ptr + at, here), rstd, m, y_mean, a1, bend


@triton.jit
def _gradient1(
    k, step, dW1, db1, local_ptr, at,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """A tile of dG1, [IB, K]: the readers' share and what the state asks."""
    kappa1 = mma(dW1, tl.trans(narrow(k, BF16)), tl.zeros([IB, K], tl.float32), BF16)
    return load_hidden(local_ptr, at, F, K, IB, BF16) + step[None, :] * (kappa1 + db1[:, None])


@triton.jit
def _asked(
    k, step, dW1, db1, dW2, at, cols, local_ptr, slope_ptr, x2_ptr, w2_ptr, row_ok, kappa2, from_g1,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """A tile's parts of kappa2 and dG2 of a mini-batch, whose tensors the pointers are."""
    inner = at + tl.arange(0, IB)
    wide, wide_ok = tokens_of_tile(inner, row_ok, F, K)
    x2 = narrow(load(x2_ptr + wide, wide_ok), BF16)
    kappa2 = mma(tl.trans(x2), dW2, kappa2, BF16)
    dg1 = _gradient1(k, step, dW1, db1, local_ptr, at, F, K, IB, BF16)
    de = narrow(dg1 * load_hidden(slope_ptr, at, F, K, IB, BF16), BF16)
    return kappa2, mma(tl.trans(de), load_matrix2(w2_ptr, inner, cols, F), from_g1, BF16)


@triton.jit
def _passed(
    k, step, g2, dz2, dW1, db1, dW2, at, cols, local_ptr, slope_ptr, x2_ptr, w2_ptr,
    share_ptr, curved_ptr, dz1_ptr, row_ok,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """A tile's gradient through a mini-batch; dZ1 into memory on the way."""
    inner = at + tl.arange(0, IB)
    wide, wide_ok = tokens_of_tile(inner, row_ok, F, K)
    dg1 = _gradient1(k, step, dW1, db1, local_ptr, at, F, K, IB, BF16)
    dx2 = mma(dW2, tl.trans(narrow(g2, BF16)), tl.zeros([IB, K], tl.float32), BF16) * step[None, :]
    W2 = load_matrix2(w2_ptr, inner, cols, F)
    dx2 = mma(W2, tl.trans(narrow(dz2, BF16)), dx2, BF16) + load_hidden(
        share_ptr, at, F, K, IB, BF16
    )
    slope = load_hidden(slope_ptr, at, F, K, IB, BF16)
    dz1 = dg1 * load_hidden(curved_ptr, at, F, K, IB, BF16) + dx2 * slope
    store(dz1_ptr + wide, dz1, wide_ok)
    dW2 = mma(load(x2_ptr + wide, wide_ok), dz2, dW2, BF16)
    dW2 = mma(dg1 * slope, g2, dW2, BF16)
    return mma(dz1, k, dW1, BF16), db1 + tl.sum(dz1, 1), dW2


@triton.jit
def _read(
    q, dz2q, dW1, db1, dW2, at, cols, xq_ptr, dz1q_ptr, db1_read_ptr, dw1_saved_ptr, db1_saved_ptr,
    saves, rows_ok,
    F: tl.constexpr, TOKENS: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """A tile's gradient with what a block's readers add: that behind the block before it, which is saved."""
    I: tl.constexpr = 4 * F
    inner = at + tl.arange(0, IB)
    wide, wide_ok = tokens_of_tile(inner, rows_ok, F, TOKENS)
    dz1q, xq = load(dz1q_ptr + wide, wide_ok), load(xq_ptr + wide, wide_ok)
    dW1, dW2 = mma(dz1q, q, dW1, BF16), mma(xq, dz2q, dW2, BF16)
    db1 += load(db1_read_ptr + inner, inner < I)
    ok = (inner[:, None] < I) & (cols[None, :] < F) & saves
    store(dw1_saved_ptr + cols[None, :] * I + inner[:, None], dW1, ok)
    tl.store(db1_saved_ptr + inner, db1, mask=(inner < I) & saves)
    return dW1, db1, dW2


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def advance_backward_kernel(
    k_ptr, q_ptr, step_ptr, gamma_ptr, g2_ptr, x2_ptr, xq_ptr, dz1q_ptr, dz2q_ptr,
    db1_read_ptr, db2_read_ptr, local_ptr, share_ptr, slope_ptr, curved_ptr, normed_ptr, p_ptr,
    plane_ptr, w2_inside_ptr, dw1_ptr, db1_ptr, dw2_ptr, db2_ptr, dw1_tiles_ptr, dw2_tiles_ptr,
    dz1_ptr, kappa2_ptr, dw1_saved_ptr, db1_saved_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """The reverse chain through both layers, last mini-batch first.

    The gradient of the state is changed in place; between mini-batches dW1 and dW2 are in the scratch
    dw1_tiles, dw2_tiles. `p`, `local` and `share` are what the readers of a token's own block have of dG2,
    dG1 and dX2; the first receives the whole. The last block's dW1 and db1 are saved by the caller.
    """
    I: tl.constexpr = 4 * F
    ROWS: tl.constexpr = (I + IB - 1) // IB * IB
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    block_rows = tl.arange(0, BLOCK * K)
    cols_ok = cols[None, :] < F
    dw1_ptr, dw2_ptr, db1_ptr = dw1_ptr + n * F * I, dw2_ptr + n * F * I, db1_ptr + n * I
    dw1_tiles_ptr, dw2_tiles_ptr = dw1_tiles_ptr + n * ROWS * FP, dw2_tiles_ptr + n * ROWS * FP
    to_fragments(dw1_ptr, db1_ptr, dw2_ptr, dw1_tiles_ptr, dw2_tiles_ptr, cols, F, IB, BF16)
    db2 = load(db2_ptr + n * F + cols, cols < F)[None, :]
    gamma2, gamma2_mean = squares(load(gamma_ptr + head * F + cols, cols < F)[None, :], F)
    plane = scans.to(tl.int64) * T
    token, tile = rows[:, None] * stride_t + cols[None, :], rows[:, None] * F + cols[None, :]
    count, blocks = tl.cdiv(T, K), tl.cdiv(T, BLOCK * K)
    final = (count - 1).to(tl.int64) * K
    tokens = (n // heads) * stride_b + head * stride_h + final * stride_t
    before = n * T + final
    # Small mini-batches bring along what they need while the tiles of the one before are gone through.
    AHEAD: tl.constexpr = BF16 and K * FP <= 16 * 64
    row_ok = rows < T - final
    k, step, local2 = _enter(
        k_ptr + tokens + token, step_ptr, p_ptr, before, rows, tile, row_ok, cols_ok, F
    )
    g2, normed, rstd, m, y_mean, a1, bend = _turn(
        g2_ptr, normed_ptr, plane_ptr, before, plane, rows, tile, row_ok, cols_ok, F
    )
    for back in tl.range(0, count, disable_licm=True):
        i = count - 1 - back
        row_ok = rows < T - i * K
        wide, w2_at = before * I, w2_inside_ptr + (n * count + i) * F * I
        hidden = (n * blocks * BLOCK + i) * K * hidden_width(F)
        if not AHEAD:
            k, step, local2 = _enter(
                k_ptr + tokens + token, step_ptr, p_ptr, before, rows, tile, row_ok, cols_ok, F
            )
        kappa2, from_g1 = tl.zeros([K, FP], tl.float32) + db2, local2
        tl.debug_barrier()  # the tiles were written by other threads
        for at in tl.range(0, I, IB, disable_licm=True):
            dW1, db1, dW2 = load_state(dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, F, FP, IB, BF16)
            kappa2, from_g1 = _asked(
                k, step, dW1, db1, dW2, at, cols, local_ptr + hidden, slope_ptr + hidden,
                x2_ptr + wide, w2_at, row_ok, kappa2, from_g1, F, K, IB, BF16,
            )  # fmt: skip

        if not AHEAD:
            g2, normed, rstd, m, y_mean, a1, bend = _turn(
                g2_ptr, normed_ptr, plane_ptr, before, plane, rows, tile, row_ok, cols_ok, F
            )
        p = from_g1 + step[:, None] * kappa2
        dz2 = inner_gradient_backward(
            p, g2, normed, rstd, m, y_mean, a1, bend, gamma2, gamma2_mean, cols_ok, F
        )
        here = row_ok[:, None] & cols_ok
        store(p_ptr + before * F + tile, p, here)
        store(kappa2_ptr + before * F + tile, kappa2, here)

        if AHEAD:
            before_ok = (rows < T) & (i > 0)
            next_k, next_step, next_local2 = _enter(
                k_ptr + tokens - K * stride_t + token, step_ptr, p_ptr, before - K, rows, tile,
                before_ok, cols_ok, F,
            )  # fmt: skip
            next_g2, next_normed, c0, c1, c2, c3, c4 = _turn(
                g2_ptr, normed_ptr, plane_ptr, before - K, plane, rows, tile, before_ok, cols_ok, F
            )
        db2 += tl.sum(dz2, 0)[None, :]
        tl.debug_barrier()
        for at in tl.range(0, I, IB, disable_licm=True):
            dW1, db1, dW2 = load_state(dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, F, FP, IB, BF16)
            dW1, db1, dW2 = _passed(
                k, step, g2, dz2, dW1, db1, dW2, at, cols, local_ptr + hidden,
                slope_ptr + hidden, x2_ptr + wide, w2_at, share_ptr + hidden,
                curved_ptr + hidden, dz1_ptr + wide, row_ok, F, K, IB, BF16,
            )  # fmt: skip
            store_state(dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, dW1, db1, dW2, F, BF16)
        if i % BLOCK == 0:
            rows_ok = block_rows < T - i * K
            ok = rows_ok[:, None] & cols_ok
            q = load(q_ptr + tokens + block_rows[:, None] * stride_t + cols[None, :], ok)
            dz2q = load(dz2q_ptr + before * F + block_rows[:, None] * F + cols[None, :], ok)
            block = n * blocks + i // BLOCK
            db2 += load(db2_read_ptr + block * F + cols, cols < F)[None, :]
            saved = block - 1
            tl.debug_barrier()
            for at in tl.range(0, I, IB, disable_licm=True):
                dW1, db1, dW2 = load_state(
                    dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, F, FP, IB, BF16
                )
                dW1, db1, dW2 = _read(
                    q, dz2q, dW1, db1, dW2, at, cols, xq_ptr + wide, dz1q_ptr + wide,
                    db1_read_ptr + block * I, dw1_saved_ptr + saved * F * I,
                    db1_saved_ptr + saved * I, i > 0, rows_ok, F, BLOCK * K, IB, BF16,
                )  # fmt: skip
                store_state(dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, dW1, db1, dW2, F, BF16)
        if AHEAD:
            k, step, local2, g2, normed = next_k, next_step, next_local2, next_g2, next_normed
            rstd, m, y_mean, a1, bend = c0, c1, c2, c3, c4
        tokens -= K * stride_t
        before -= K
    tl.store(db2_ptr + n * F + cols[None, :], db2, mask=cols_ok)
    tl.debug_barrier()
    from_fragments(dw1_ptr, db1_ptr, dw2_ptr, dw1_tiles_ptr, dw2_tiles_ptr, cols, F, IB, BF16)
