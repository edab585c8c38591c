"""TTT-MLP's reverse chain with one visit to the state's gradient per mini-batch, for small mini-batches.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); I = 4 F hidden features, IB of them in a tile; K tokens of a mini-batch; BLOCK mini-batches of
a block (64 tokens in bf16, 32 in fp32; no CUDA block).

Two visits to the tiles are needed for a mini-batch: to sum what it asks of all tiles, and, after the inner
gradient's Jacobian, to update them. So a visit updates a tile with one mini-batch and asks it at once for the
mini-batch before. At the beginning of a block its readers come in between, in a second visit. Else as in
advance_backward.py.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import inner_gradient_backward, squares
from tttscale.kernels.triton_scan.mlp.fragments import (
    from_fragments,
    hidden_width,
    load_state,
    store_state,
    to_fragments,
)
from tttscale.kernels.triton_scan.mlp.tile_gradients import _asked, _enter, _passed, _read, _turn
from tttscale.kernels.triton_scan.ops import load, store


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def advance_backward_merged_kernel(
    k_ptr, q_ptr, step_ptr, gamma_ptr, g2_ptr, x2_ptr, xq_ptr, dz1q_ptr, dz2q_ptr,
    db1_read_ptr, db2_read_ptr, local_ptr, share_ptr, slope_ptr, curved_ptr, normed_ptr, p_ptr,
    plane_ptr, w2_inside_ptr, dw1_ptr, db1_ptr, dw2_ptr, db2_ptr, dw1_tiles_ptr, dw2_tiles_ptr,
    dz1_ptr, kappa2_ptr, dw1_saved_ptr, db1_saved_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """`advance_backward_kernel`, with both visits to a tile in one. Grid: (N,)."""
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
    HIDDEN: tl.constexpr = K * hidden_width(F)  # numbers of a mini-batch in a hidden tensor
    row_ok = rows < T - final
    k, step, from_g1 = _enter(
        k_ptr + tokens + token, step_ptr, p_ptr, before, rows, tile, row_ok, cols_ok, F
    )
    g2, normed, rstd, m, y_mean, a1, bend = _turn(
        g2_ptr, normed_ptr, plane_ptr, before, plane, rows, tile, row_ok, cols_ok, F
    )
    kappa2 = tl.zeros([K, FP], tl.float32)
    hidden = (n * blocks * BLOCK + count - 1) * HIDDEN
    wide, w2_at = before * I, w2_inside_ptr + (n * count + count - 1) * F * I
    tl.debug_barrier()  # the tiles were written by other threads
    for at in tl.range(0, I, IB, disable_licm=True):
        dW1, db1, dW2 = load_state(dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, F, FP, IB, BF16)
        kappa2, from_g1 = _asked(
            k, step, dW1, db1, dW2, at, cols, local_ptr + hidden, slope_ptr + hidden,
            x2_ptr + wide, w2_at, row_ok, kappa2, from_g1, F, K, IB, BF16,
        )  # fmt: skip
    for back in tl.range(0, count, disable_licm=True):
        i = count - 1 - back
        row_ok = rows < T - i * K
        kappa2 += db2
        p = from_g1 + step[:, None] * kappa2
        dz2 = inner_gradient_backward(
            p, g2, normed, rstd, m, y_mean, a1, bend, gamma2, gamma2_mean, cols_ok, F
        )
        here = row_ok[:, None] & cols_ok
        store(p_ptr + before * F + tile, p, here)
        store(kappa2_ptr + before * F + tile, kappa2, here)
        db2 += tl.sum(dz2, 0)[None, :]

        # The mini-batch before, for which the tiles are asked; at the end the first one itself, masked.
        next_ok, front = (rows < T) & (i > 0), tl.minimum(i, 1).to(tl.int64)
        next_hidden, next_wide = hidden - front * HIDDEN, wide - front * (K * I)
        next_w2_at = w2_at - front * (F * I)
        next_k, next_step, from_g1 = _enter(
            k_ptr + tokens - K * stride_t + token, step_ptr, p_ptr, before - K, rows, tile,
            next_ok, cols_ok, F,
        )  # fmt: skip
        next_g2, next_normed, c0, c1, c2, c3, c4 = _turn(
            g2_ptr, normed_ptr, plane_ptr, before - K, plane, rows, tile, next_ok, cols_ok, F
        )
        kappa2 = tl.zeros([K, FP], tl.float32)
        tl.debug_barrier()
        if i % BLOCK != 0:
            for at in tl.range(0, I, IB, disable_licm=True):
                dW1, db1, dW2 = load_state(
                    dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, F, FP, IB, BF16
                )
                dW1, db1, dW2 = _passed(
                    k, step, g2, dz2, dW1, db1, dW2, at, cols, local_ptr + hidden,
                    slope_ptr + hidden, x2_ptr + wide, w2_at, share_ptr + hidden,
                    curved_ptr + hidden, dz1_ptr + wide, row_ok, F, K, IB, BF16,
                )  # fmt: skip
                store_state(dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, dW1, db1, dW2, F, BF16)
                kappa2, from_g1 = _asked(
                    next_k, next_step, dW1, db1, dW2, at, cols, local_ptr + next_hidden,
                    slope_ptr + next_hidden, x2_ptr + next_wide, next_w2_at, next_ok,
                    kappa2, from_g1, F, K, IB, BF16,
                )  # fmt: skip
        else:  # the block's readers come in between
            rows_ok = block_rows < T - i * K
            ok = rows_ok[:, None] & cols_ok
            # [BLOCK K, FP]
            q = load(q_ptr + tokens + block_rows[:, None] * stride_t + cols[None, :], ok)
            dz2q = load(dz2q_ptr + before * F + block_rows[:, None] * F + cols[None, :], ok)
            block = n * blocks + i // BLOCK
            db2 += load(db2_read_ptr + block * F + cols, cols < F)[None, :]
            saved = block - 1
            for at in tl.range(0, I, IB, disable_licm=True):
                dW1, db1, dW2 = load_state(
                    dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, F, FP, IB, BF16
                )
                dW1, db1, dW2 = _passed(
                    k, step, g2, dz2, dW1, db1, dW2, at, cols, local_ptr + hidden,
                    slope_ptr + hidden, x2_ptr + wide, w2_at, share_ptr + hidden,
                    curved_ptr + hidden, dz1_ptr + wide, row_ok, F, K, IB, BF16,
                )  # fmt: skip
                store_state(dw1_tiles_ptr, db1_ptr, dw2_tiles_ptr, at, dW1, db1, dW2, F, BF16)
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
                kappa2, from_g1 = _asked(
                    next_k, next_step, dW1, db1, dW2, at, cols, local_ptr + next_hidden,
                    slope_ptr + next_hidden, x2_ptr + next_wide, next_w2_at, next_ok,
                    kappa2, from_g1, F, K, IB, BF16,
                )  # fmt: skip
        k, step, g2, normed = next_k, next_step, next_g2, next_normed
        rstd, m, y_mean, a1, bend = c0, c1, c2, c3, c4
        tokens -= K * stride_t
        before -= K
        hidden, wide, w2_at = next_hidden, next_wide, next_w2_at
    tl.store(db2_ptr + n * F + cols[None, :], db2, mask=cols_ok)
    tl.debug_barrier()
    from_fragments(dw1_ptr, db1_ptr, dw2_ptr, dw1_tiles_ptr, dw2_tiles_ptr, cols, F, IB, BF16)
