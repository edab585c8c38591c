"""The serial kernels of TTT-Linear: W(t) -> W(t+1), and its gradient backwards.

One program per (sequence, head). Inside a block of mini-batches the state stands still: what mini-batch j
changes for a later one m is (K_m K_j^T + 1) times its inner gradients, a product of [K, K] with [K, f], and
that is all that stands between two mini-batches. The state itself is read and changed once per block, in
tiles of IB rows over all columns. So every product keeps its columns in the warps they are in, and only the
sums of LayerNorm are exchanged between warps. What does not stand on the chain is in parallel.py; formulas
in ../../ttt_linear.md.
"""

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import (
    inner_gradient,
    inner_gradient_backward,
    load_jacobian,
    squares,
)
from tttscale.kernels.triton_scan.ops import load, mma, store


@triton.jit
def _tile(part, cols, F: tl.constexpr, IB: tl.constexpr):
    """Offsets of rows part IB .. of a matrix [F, F], and which of them exist."""
    rows = part * IB + tl.arange(0, IB)[:, None]
    return rows * F + cols[None, :], (rows < F) & (cols[None, :] < F)


@triton.jit
def _load_centred(
    w_ptr, b_ptr, cols, F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, IB: tl.constexpr
):  # fmt: skip
    """The tiles of a matrix, and a bias in each of K rows; both without their means over the columns."""
    tiles = ()
    for part in tl.static_range((F + IB - 1) // IB):
        at, ok = _tile(part, cols, F, IB)
        W = load(w_ptr + at, ok)
        tiles = tiles + (tl.where(ok, W - tl.sum(W, 1)[:, None] / F, 0.0),)
    b = load(b_ptr + cols, cols < F)
    b = tl.where(cols < F, b - tl.sum(b, 0) / F, 0.0)
    return tiles, tl.zeros([K, FP], tl.float32) + b[None, :]


@triton.jit
def _store_whole(
    w_ptr, b_ptr, w_first_ptr, b_first_ptr, tiles, B, cols, F: tl.constexpr, IB: tl.constexpr
):  # fmt: skip
    """Tiles and bias, with the means of those at w_first_ptr and b_first_ptr, which the chain left out."""
    for part in tl.static_range((F + IB - 1) // IB):
        at, ok = _tile(part, cols, F, IB)
        mean = tl.sum(load(w_first_ptr + at, ok), 1)[:, None] / F
        tl.store(w_ptr + at, tiles[part] + mean, mask=ok)
    mean = tl.sum(load(b_first_ptr + cols, cols < F), 0) / F
    _store_bias(b_ptr, B + mean, cols, F)


@triton.jit
def _store_bias(b_ptr, B, cols, F: tl.constexpr):
    """One of the equal rows of B."""
    row = tl.arange(0, B.shape[0])[:, None]
    tl.store(b_ptr + row * 0 + cols[None, :], B, mask=(row == 0) & (cols[None, :] < F))


@triton.jit
def _save(w_ptr, b_ptr, saved, tiles, B, cols, F: tl.constexpr, IB: tl.constexpr):
    """Tiles and bias as number `saved` of the states between blocks."""
    for part in tl.static_range((F + IB - 1) // IB):
        at, ok = _tile(part, cols, F, IB)
        store(w_ptr + saved * F * F + at, tiles[part], ok)
    _store_bias(b_ptr + saved * F, B, cols, F)


@triton.jit
def _times(
    x_ptr, stride, left, tiles, acc,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """acc + x W for the mini-batch at x_ptr, of which `left` tokens are there."""
    rows, inner = tl.arange(0, K)[:, None], tl.arange(0, IB)[None, :]
    for part in tl.static_range((F + IB - 1) // IB):
        at = part * IB + inner
        x = load(x_ptr + rows * stride + at, (rows < left) & (at < F))
        acc = mma(x, tiles[part], acc, BF16)
    return acc


@triton.jit
def _plus_outer(
    x_ptr, stride, left, h, tiles,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """The tiles of W + x^T h."""
    rows, inner = tl.arange(0, K)[None, :], tl.arange(0, IB)[:, None]
    after = ()
    for part in tl.static_range((F + IB - 1) // IB):
        at = part * IB + inner
        x = load(x_ptr + rows * stride + at, (rows < left) & (at < F))
        after = after + (mma(x, h, tiles[part], BF16),)
    return after


@triton.jit
def _carried(
    scores_ptr, before, left, j: tl.constexpr, h, z, begin: tl.constexpr, end: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """z of mini-batches begin .. end - 1 with what the change h of mini-batch j is to them."""
    rows, cols = tl.arange(0, K)[:, None], tl.arange(0, K)[None, :]
    after = ()
    for m in tl.static_range(BLOCK):
        if m >= begin and m < end:
            at = (before + m * K + rows) * (BLOCK * K) + j * K + cols
            scores = load(scores_ptr + at, rows < left - m * K)
            after = after + (mma(scores, h, z[m], BF16),)
        else:
            after = after + (z[m],)
    return after


@triton.jit(do_not_specialize=["T", "heads"])
def advance_kernel(
    k_ptr, u_ptr, step_ptr, scores_ptr, gamma_ptr, w_ptr, b_ptr,
    g_ptr, w_saved_ptr, b_saved_ptr, w_last_ptr, b_last_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """Z = k W + b, G = g(Z), W += k^T (step G), b += step^T G for each mini-batch in turn.

    LayerNorm does not see the mean over the output dim: kept out of the chain, centred sums are exact.
    """
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
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


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def advance_backward_kernel(
    k_ptr, q_ptr, step_ptr, scores_ptr, gamma_ptr, g_ptr, normed_ptr, dzq_ptr, p_ptr, plane_ptr,
    dw_ptr, db_ptr, dz_ptr, dw_saved_ptr, db_saved_ptr, dw_first_ptr, db_first_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """p += step kappa, dz = J(p), dW += k^T dz, last mini-batch first; then q^T dzq of a block's readers.

    p_ptr holds the share of the readers of a token's own block and receives the whole, up to its mean, which
    no inner gradient sees; plane_ptr: see `Planes` in ../segment.py.
    """
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    gamma2, gamma2_mean = squares(gamma, F)
    dw_ptr, db_ptr = dw_ptr + n * F * F, db_ptr + n * F
    dW, dB = _load_centred(dw_ptr, db_ptr, cols, F, FP, K, IB)

    blocks = tl.cdiv(T, BLOCK * K)
    start = (n // heads) * stride_b + head * stride_h
    tile, ones = rows[:, None] * F + cols[None, :], tl.full([K, K], 1.0, tl.float32)
    plane = scans.to(tl.int64) * T
    for back in range(0, blocks):
        i = blocks - 1 - back
        first = tl.cast(i, tl.int64) * BLOCK * K
        before, keys = n * T + first, k_ptr + start + first * stride_t
        queries = q_ptr + start + first * stride_t
        _save(dw_saved_ptr, db_saved_ptr, n * blocks + i, dW, dB, cols, F, IB)
        left = T - i * BLOCK * K
        kappa = ()
        for j in tl.static_range(BLOCK):
            x = keys + j * K * stride_t
            product = _times(x, stride_t, left - j * K, dW, dB, F, K, IB, BF16)
            kappa = kappa + (product,)
        for j in tl.static_range(BLOCK - 1, -1, -1):
            at = before + j * K
            row_ok = rows < left - j * K
            here = row_ok[:, None] & cols_ok
            at_tile = at * F + tile
            g, normed = load(g_ptr + at_tile, here), load(normed_ptr + at_tile, here)
            rstd, m, y_mean, a1, bend = load_jacobian(plane_ptr + at, plane, rows, row_ok)
            step = load(step_ptr + at + rows, row_ok)[:, None]
            p = load(p_ptr + at_tile, here) + step * kappa[j]
            store(p_ptr + at_tile, p, here)
            dz = inner_gradient_backward(
                p, g, normed, rstd, m, y_mean, a1, bend, gamma2, gamma2_mean, cols_ok, F
            )
            kappa = _carried(scores_ptr, before, left, j, dz, kappa, 0, j, K, BLOCK, BF16)
            store(dz_ptr + at_tile, dz, here)
            dzq, x = load(dzq_ptr + at_tile, here), j * K * stride_t
            dW = _plus_outer(keys + x, stride_t, left - j * K, dz, dW, F, K, IB, BF16)
            dW = _plus_outer(queries + x, stride_t, left - j * K, dzq, dW, F, K, IB, BF16)
            # fp32 fills the registers: one product less.
            B = mma(ones, dz, dB, BF16) if BF16 else dB
            dB = mma(ones, dzq if BF16 else dz + dzq, B, BF16)
    _store_whole(
        dw_first_ptr + n * F * F, db_first_ptr + n * F, dw_ptr, db_ptr, dW, dB, cols, F, IB
    )
