"""The serial kernel of TTT-Linear's backward: the gradient of W(t+1) -> of W(t), last mini-batch first.

Legend and arrangement as in advance.py, with the state's gradient dW in the place of W. `kappa` = K dW is the
part of an inner gradient's gradient that comes through the state; formulas in ../../ttt_linear.md.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import (
    inner_gradient_backward,
    load_jacobian,
    squares,
)
from tttscale.kernels.triton_scan.linear.tiles import (
    _carried,
    _load_centred,
    _plus_outer,
    _save,
    _store_whole,
    _times,
)
from tttscale.kernels.triton_scan.ops import load, mma, store


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def advance_backward_kernel(
    k_ptr, q_ptr, step_ptr, scores_ptr, gamma_ptr, g_ptr, normed_ptr, dzq_ptr, p_ptr, plane_ptr,
    dw_ptr, db_ptr, dz_ptr, dw_saved_ptr, db_saved_ptr, dw_first_ptr, db_first_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
    IB: tl.constexpr,
):  # fmt: skip
    """p += step kappa, dz = J(p), dW += k^T dz, last mini-batch first; then q^T dzq of a block's readers.

    Grid: (N,). dW in tiles, dB and kappa of a block's mini-batches stay in registers. p_ptr holds the share
    of readers in a token's own block and receives all of it, up to its mean, which no inner gradient sees;
    plane_ptr: the row constants of `store_jacobian` in ../inner_loss.py.
    """
    n = tl.program_id(0).to(tl.int64)
    head = n % heads
    rows, cols = tl.arange(0, K), tl.arange(0, FP)
    cols_ok = cols[None, :] < F
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]  # [1, FP]
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
            g, normed = load(g_ptr + at_tile, here), load(normed_ptr + at_tile, here)  # [K, FP]
            rstd, m, y_mean, a1, bend = load_jacobian(plane_ptr + at, plane, rows, row_ok)
            step = load(step_ptr + at + rows, row_ok)[:, None]  # [K, 1]
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
