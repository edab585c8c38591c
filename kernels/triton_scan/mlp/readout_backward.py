"""The parallel part of TTT-MLP's backward: everything that needs no gradient of the state, in one kernel.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); I = 4 F hidden features, IB of them in a tile; K tokens of a mini-batch; BLOCK mini-batches of
a block (64 tokens in bf16, 32 in fp32; no CUDA block).

One program (CTA) per block of mini-batches and scan, in four phases: the keys' forward again, W2 before every
mini-batch, the readers' output layer, the readers' hidden layer. Each goes through the hidden layer some
columns at a time and reads much of what the others read or wrote. In one program all but the first can find
it in the L2 cache, which does not hold the scratch of a whole segment.

What a phase needs before and after its loop, or after a store, is loaded or formed again: kept, it would
occupy registers all the way.
"""

# Triton types its functions as ones that never return, and constants by a class of its own.
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import store_jacobian, store_norm_sums
from tttscale.kernels.triton_scan.mlp.fragments import hidden_width, store_hidden
from tttscale.kernels.triton_scan.mlp.readout import layer1, weights1
from tttscale.kernels.triton_scan.mlp.tiles import load_matrix2
from tttscale.kernels.triton_scan.ops import (
    block_of,
    gelu,
    gelu_and_slope,
    gelu_slope_curvature,
    load,
    mma,
    narrow,
    norm_backward,
    normalised,
    rates_of,
    store,
    tau_sums,
)


@triton.jit
def _keys(
    k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, g1_ptr, g2_ptr,
    w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr,
    x2_ptr, slope_ptr, curved_ptr, normed_ptr, plane_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """Run the keys' forward again and store X2, gelu'(Z1), E gelu''(Z1), and the Jacobian of G2 at Z2."""
    I: tl.constexpr = 4 * F
    head, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    tile = rows[:, None] * F + cols[None, :]
    # [BLOCK K, FP]
    k, g2 = load(k_ptr + tokens + token, here), load(g2_ptr + before * F + tile, here)
    k = narrow(k, BF16)
    g2 = narrow(g2, BF16)
    lam, _, moves = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    square0 = tl.zeros([BLOCK * K, BLOCK * K], tl.float32)
    moves *= -lam[None, :]
    moved1 = narrow((mma(k, tl.trans(k), square0, BF16) + 1) * moves, BF16)
    moved2 = narrow(mma(g2, tl.trans(g2), square0, BF16) * moves, BF16)
    b2 = load(b2_saved_ptr + saved * F + cols, cols < F)[None, :]
    z, scores2 = tl.zeros([BLOCK * K, FP], tl.float32) + b2, square0
    hidden = saved * BLOCK * K * hidden_width(F)
    for begin in range(0, I, IB):
        inner = begin + tl.arange(0, IB)
        wide, wide_ok = rows[:, None] * I + inner[None, :], rows_ok[:, None] & (inner[None, :] < I)
        g1 = load(g1_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        w1_at, b1_at = w1_saved_ptr + saved * F * I, b1_saved_ptr + saved * I
        z1 = layer1(k, moved1, w1_at, b1_at, g1, inner, cols, F, BF16)
        x2, slope, curvature = gelu_slope_curvature(z1)
        x2 = narrow(x2, BF16)
        store(x2_ptr + before * I + wide, x2, wide_ok)
        store_hidden(slope_ptr + hidden, begin, slope, F, BF16)
        W2 = load_matrix2(w2_saved_ptr + saved * F * I, inner, cols, F)
        back = mma(g2, tl.trans(W2), tl.zeros([BLOCK * K, IB], tl.float32), BF16)
        back = mma(moved2, x2, back, BF16)
        store_hidden(curved_ptr + hidden, begin, back * curvature, F, BF16)
        z = mma(x2, W2, z, BF16)
        scores2 = mma(x2, tl.trans(x2), scores2, BF16)
    lam, _, moves = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    z = mma(-(scores2 + 1) * moves * lam[None, :], g2, z, BF16)
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
    miss = beta - load(v_ptr + tokens + token, here) + load(k_ptr + tokens + token, here)
    store_jacobian(
        normed_ptr + before * F, plane_ptr + before, tile, rows, here, scans.to(tl.int64) * T,
        z, miss, gamma, cols_ok, F,
    )  # fmt: skip


@triton.jit
def _replay(
    step_ptr, x2_ptr, g2_ptr, w2_saved_ptr, w2_inside_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Store W2 before each mini-batch, as many of its rows at a time as it has columns, 64 at most."""
    ROWS: tl.constexpr = FP if FP < 64 else 64
    n = tl.program_id(1).to(tl.int64)
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    count, first = tl.cdiv(T, K), tl.program_id(0) * BLOCK
    block = n * tl.num_programs(0) + tl.program_id(0)
    for begin in range(0, 4 * F, ROWS):
        inner = begin + tl.arange(0, ROWS)
        at, ok = inner[:, None] * F + cols[None, :], (inner[:, None] < 4 * F) & cols_ok
        W2 = load(w2_saved_ptr + block * 4 * F * F + at, ok)  # [ROWS, FP], in registers
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
def _output(
    q_ptr, k_ptr, lr_ptr, tau_ptr, gamma_ptr, g1_ptr, g2_ptr,
    w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr, x2_ptr, d_out_ptr,
    xq_ptr, dz2q_ptr, db2_read_ptr, p_ptr, asked_ptr, dtau_ptr, dlast_ptr, dnorm_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """Output layer: the readers' forward again (Xq), dz2q and its sum, and this block's share of dG2."""
    I: tl.constexpr = 4 * F
    head, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    tile = rows[:, None] * F + cols[None, :]
    q, k = load(q_ptr + tokens + token, here), load(k_ptr + tokens + token, here)  # [BLOCK K, FP]
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    square0 = tl.zeros([BLOCK * K, BLOCK * K], tl.float32)
    read1 = weights1(q, k, reads, lam, BF16)
    b2 = load(b2_saved_ptr + saved * F + cols, cols < F)[None, :]
    zq = tl.zeros([BLOCK * K, FP], tl.float32) + b2
    scores = square0
    for begin in range(0, I, IB):
        inner = begin + tl.arange(0, IB)
        wide, wide_ok = rows[:, None] * I + inner[None, :], rows_ok[:, None] & (inner[None, :] < I)
        g1 = load(g1_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        w1_at, b1_at = w1_saved_ptr + saved * F * I, b1_saved_ptr + saved * I
        xq = gelu(layer1(q, read1, w1_at, b1_at, g1, inner, cols, F, BF16))
        store(xq_ptr + before * I + wide, xq, wide_ok)
        zq = mma(xq, load_matrix2(w2_saved_ptr + saved * F * I, inner, cols, F), zq, BF16)
        x2 = load(x2_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        scores = mma(xq, tl.trans(x2), scores, BF16)
    g2 = load(g2_ptr + before * F + tile, here)
    scores += 1
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    zq = mma(-scores * reads * lam[None, :], g2, zq, BF16)
    normed, rstd = normalised(zq, cols_ok, F)
    d_out = load(d_out_ptr + tokens + token, here)
    store_norm_sums(dnorm_ptr + saved * 2 * F, cols, d_out * normed, d_out, F)
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    dz2q = norm_backward(d_out * gamma, normed, rstd, cols_ok, F)
    store(dz2q_ptr + before * F + tile, dz2q, here)
    tl.store(db2_read_ptr + saved * F + cols, tl.sum(dz2q, 0), mask=cols < F)
    g2 = load(g2_ptr + before * F + tile, here)
    dtau, dlast = tau_sums(rows, mma(dz2q, tl.trans(g2), square0, BF16), scores, lam, K)
    tl.store(dtau_ptr + before + rows, dtau, mask=rows_ok)
    tl.store(dlast_ptr + saved, dlast)
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    asked = tl.trans(narrow(scores * reads, BF16))
    asked = mma(asked, dz2q, tl.zeros([BLOCK * K, FP], tl.float32), BF16)
    store(p_ptr + before * F + tile, -lam[:, None] * asked, here)
    tl.store(asked_ptr + before + rows, tl.sum(asked * g2, 1), mask=rows_ok)


@triton.jit
def _hidden(
    q_ptr, k_ptr, lr_ptr, tau_ptr, g1_ptr, g2_ptr, w1_saved_ptr, b1_saved_ptr, w2_saved_ptr,
    x2_ptr, dz2q_ptr, dz1q_ptr, db1_read_ptr, local_ptr, share_ptr,
    asked_ptr, dtau_ptr, dlast_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """Hidden layer: dz1q and its sum, and this block's shares of dG1 and dX2.

    Adds the hidden layer's terms to what asked_ptr, dtau_ptr and dlast_ptr hold of the output layer.
    """
    I: tl.constexpr = 4 * F
    _, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    here = rows_ok[:, None] & (cols[None, :] < F)
    tile = rows[:, None] * F + cols[None, :]
    q, k = load(q_ptr + tokens + token, here), load(k_ptr + tokens + token, here)
    dz2q = narrow(load(dz2q_ptr + before * F + tile, here), BF16)
    g2 = load(g2_ptr + before * F + tile, here)
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    square0 = tl.zeros([BLOCK * K, BLOCK * K], tl.float32)
    wide0 = tl.zeros([BLOCK * K, IB], tl.float32)
    scores = mma(q, tl.trans(k), square0, BF16) + 1
    turned = tl.trans(narrow(scores * reads, BF16))
    read1 = narrow(-scores * reads * lam[None, :], BF16)
    read2 = narrow(-mma(dz2q, tl.trans(g2), square0, BF16) * reads * lam[None, :], BF16)
    pairs, asked = square0, tl.zeros([BLOCK * K], tl.float32)
    w1_at, b1_at = w1_saved_ptr + saved * F * I, b1_saved_ptr + saved * I
    hidden = saved * BLOCK * K * hidden_width(F)
    for begin in range(0, I, IB):
        inner = begin + tl.arange(0, IB)
        wide, wide_ok = rows[:, None] * I + inner[None, :], rows_ok[:, None] & (inner[None, :] < I)
        # Readers: the hidden layer again, and its gradient.
        g1 = load(g1_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        xq, slope = gelu_and_slope(layer1(q, read1, w1_at, b1_at, g1, inner, cols, F, BF16))
        W2 = tl.trans(load_matrix2(w2_saved_ptr + saved * F * I, inner, cols, F))
        x2 = load(x2_ptr + before * I + wide, wide_ok)  # [BLOCK K, IB]
        dz1q = mma(read2, x2, mma(dz2q, W2, wide0, BF16), BF16) * slope
        store(dz1q_ptr + before * I + wide, dz1q, wide_ok)
        tl.store(db1_read_ptr + saved * I + inner, tl.sum(dz1q, 0), mask=inner < I)
        pairs = mma(dz1q, tl.trans(g1), pairs, BF16)
        # Sources: rows are now the tokens that are read.
        store_hidden(share_ptr + hidden, begin, mma(tl.trans(read2), xq, wide0, BF16), F, BF16)
        part = mma(turned, dz1q, wide0, BF16)
        store_hidden(local_ptr + hidden, begin, -lam[:, None] * part, F, BF16)
        asked += tl.sum(part * g1, 1)
    q, k = load(q_ptr + tokens + token, here), load(k_ptr + tokens + token, here)
    scores = mma(q, tl.trans(k), square0, BF16) + 1
    dtau, dlast = tau_sums(rows, pairs, scores, lam, K)
    asked += load(asked_ptr + before + rows, rows_ok)
    dtau += load(dtau_ptr + before + rows, rows_ok)
    dlast += tl.load(dlast_ptr + saved)
    tl.debug_barrier()  # several warps have read what one of them writes
    tl.store(asked_ptr + before + rows, asked, mask=rows_ok)
    tl.store(dtau_ptr + before + rows, dtau, mask=rows_ok)
    tl.store(dlast_ptr + saved, dlast)


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def readout_backward_kernel(
    q_ptr, k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, step_ptr, g1_ptr, g2_ptr,
    w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr, d_out_ptr,
    x2_ptr, slope_ptr, curved_ptr, normed_ptr, plane_ptr, inside_ptr,
    xq_ptr, dz2q_ptr, db2_read_ptr, p_ptr, dz1q_ptr, db1_read_ptr, local_ptr, share_ptr,
    asked_ptr, dtau_ptr, dlast_ptr, dnorm_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr, KEYS_IB: tl.constexpr,
):  # fmt: skip
    """Run all phases of a block, the keys' KEYS_IB columns at a time, the readers' IB. Grid: (blocks, N)."""
    # The conditions always hold (segments have no stride of 0); they keep what phases share out of registers.
    if scans > 0:
        _keys(
            k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, g1_ptr, g2_ptr,
            w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr,
            x2_ptr, slope_ptr, curved_ptr, normed_ptr, plane_ptr,
            stride_b, stride_h, stride_t, T, heads, scans, F, FP, K, BLOCK, BF16, KEYS_IB,
        )  # fmt: skip
    tl.debug_barrier()  # X2 was written by other threads
    if heads > 0:
        _replay(
            step_ptr, x2_ptr, g2_ptr, w2_saved_ptr, inside_ptr,
            stride_b, stride_h, stride_t, T, heads, F, FP, K, BLOCK, BF16,
        )  # fmt: skip
    if T > 0:
        _output(
            q_ptr, k_ptr, lr_ptr, tau_ptr, gamma_ptr, g1_ptr, g2_ptr,
            w1_saved_ptr, b1_saved_ptr, w2_saved_ptr, b2_saved_ptr, x2_ptr, d_out_ptr,
            xq_ptr, dz2q_ptr, db2_read_ptr, p_ptr, asked_ptr, dtau_ptr, dlast_ptr, dnorm_ptr,
            stride_b, stride_h, stride_t, T, heads, F, FP, K, BLOCK, BF16, IB,
        )  # fmt: skip
    tl.debug_barrier()  # and so was dz2q
    if stride_t > 0:
        _hidden(
            q_ptr, k_ptr, lr_ptr, tau_ptr, g1_ptr, g2_ptr, w1_saved_ptr, b1_saved_ptr, w2_saved_ptr,
            x2_ptr, dz2q_ptr, dz1q_ptr, db1_read_ptr, local_ptr, share_ptr,
            asked_ptr, dtau_ptr, dlast_ptr,
            stride_b, stride_h, stride_t, T, heads, F, FP, K, BLOCK, BF16, IB,
        )  # fmt: skip
