"""Parts of TTT-MLP's reverse chain: what a mini-batch reads, and its way through a tile of the hidden layer.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); I = 4 F hidden features, IB of them in a tile; K tokens of a mini-batch; BLOCK mini-batches of
a block (64 tokens in bf16, 32 in fp32; no CUDA block).

A tile of the state's gradient is dW1^T and dW2 [IB, FP] and db1 [IB]; hidden tensors are [IB, K] here, tokens
as columns. Read in the order of a step: `_enter`, `_asked` for all tiles, `_turn`, `_passed` for all tiles,
and where a block begins `_read` for all tiles.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import load_jacobian
from tttscale.kernels.triton_scan.mlp.fragments import load_hidden
from tttscale.kernels.triton_scan.mlp.tiles import load_matrix2, tokens_of_tile
from tttscale.kernels.triton_scan.ops import load, mma, narrow, store


@triton.jit
def _enter(keys, step_ptr, p_ptr, before, rows, tile, row_ok, cols_ok, F: tl.constexpr):
    """Load what a mini-batch begins with: k [K, FP], step [K], and its readers' share of dG2 [K, FP]."""
    here = row_ok[:, None] & cols_ok
    local2 = load(p_ptr + before * F + tile, here)
    return load(keys, here), load(step_ptr + before + rows, row_ok), local2


@triton.jit
def _turn(
    g2_ptr, normed_ptr, plane_ptr, before, plane, rows, tile, row_ok, cols_ok, F: tl.constexpr
):  # fmt: skip
    """Load the Jacobian of the inner gradient: G2 and x^ [K, FP], and five row constants [K, 1]."""
    here, at = row_ok[:, None] & cols_ok, before * F + tile
    rstd, m, y_mean, a1, bend = load_jacobian(plane_ptr + before, plane, rows, row_ok)
    return load(g2_ptr + at, here), load(normed_ptr + at, here), rstd, m, y_mean, a1, bend


@triton.jit
def _gradient1(
    k, step, dW1, db1, local_ptr, at,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Form a tile of dG1, [IB, K]: the readers' share, and step kappa1 that comes through the state."""
    kappa1 = mma(dW1, tl.trans(narrow(k, BF16)), tl.zeros([IB, K], tl.float32), BF16)
    return load_hidden(local_ptr, at, F, K, IB, BF16) + step[None, :] * (kappa1 + db1[:, None])


@triton.jit
def _asked(
    k, step, dW1, db1, dW2, at, cols, local_ptr, slope_ptr, x2_ptr, w2_ptr, row_ok, kappa2, from_g1,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Add one tile's terms to kappa2 and dG2, [K, FP], of the mini-batch at the pointers.

    kappa2 += X2 dW2, the gradient of G2 through the state; from_g1 += dE W2^T, that through G1.
    """
    inner = at + tl.arange(0, IB)
    wide, wide_ok = tokens_of_tile(inner, row_ok, F, K)
    x2 = narrow(load(x2_ptr + wide, wide_ok), BF16)  # [IB, K]
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
    """Take a tile of the state's gradient back through a mini-batch, and store dZ1 [IB, K].

    dX2 = share + step (G2 dW2^T) + dZ2 W2^T; dZ1 = dG1 curved + dX2 slope; then dW2 and dW1 of the state
    before.
    """
    inner = at + tl.arange(0, IB)
    wide, wide_ok = tokens_of_tile(inner, row_ok, F, K)
    dg1 = _gradient1(k, step, dW1, db1, local_ptr, at, F, K, IB, BF16)
    dx2 = mma(dW2, tl.trans(narrow(g2, BF16)), tl.zeros([IB, K], tl.float32), BF16) * step[None, :]
    W2 = load_matrix2(w2_ptr, inner, cols, F)  # [IB, FP]
    dx2 = mma(W2, tl.trans(narrow(dz2, BF16)), dx2, BF16) + load_hidden(
        share_ptr, at, F, K, IB, BF16
    )
    slope = load_hidden(slope_ptr, at, F, K, IB, BF16)  # [IB, K]
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
    """Add what a block's readers ask of a tile, and save it: the state's gradient after the block before."""
    I: tl.constexpr = 4 * F
    inner = at + tl.arange(0, IB)
    wide, wide_ok = tokens_of_tile(inner, rows_ok, F, TOKENS)
    dz1q, xq = load(dz1q_ptr + wide, wide_ok), load(xq_ptr + wide, wide_ok)  # [IB, TOKENS]
    dW1, dW2 = mma(dz1q, q, dW1, BF16), mma(xq, dz2q, dW2, BF16)
    db1 += load(db1_read_ptr + inner, inner < I)
    ok = (inner[:, None] < I) & (cols[None, :] < F) & saves
    store(dw1_saved_ptr + cols[None, :] * I + inner[:, None], dW1, ok)
    tl.store(db1_saved_ptr + inner, db1, mask=(inner < I) & saves)
    return dW1, db1, dW2
