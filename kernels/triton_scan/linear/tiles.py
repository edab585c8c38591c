"""Parts of TTT-Linear's serial kernels: the state in tiles of rows, and what changes it.

Legend: T tokens of a scan, F features of a head (FP: rounded up to a power of two), K tokens of a mini-batch,
BLOCK mini-batches of a block (64 tokens in bf16, 32 in fp32; no CUDA block), IB rows of a tile.

A state W [F, F] is a tuple of ceil(F / IB) tiles [IB, FP] in registers, its bias a tile B [K, FP] of equal
rows.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.ops import load, mma, store


@triton.jit
def _tile(part, cols, F: tl.constexpr, IB: tl.constexpr):
    """Offsets [IB, FP] of rows part * IB and on of a matrix [F, F], and which of them exist."""
    rows = part * IB + tl.arange(0, IB)[:, None]
    return rows * F + cols[None, :], (rows < F) & (cols[None, :] < F)


@triton.jit
def _load_centred(
    w_ptr, b_ptr, cols, F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, IB: tl.constexpr
):  # fmt: skip
    """Load a matrix as tiles [IB, FP], and a bias as rows [K, FP]; both without means over columns."""
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
    """Store tiles and bias, plus the means of w_first and b_first, which were kept out of the chain."""
    for part in tl.static_range((F + IB - 1) // IB):
        at, ok = _tile(part, cols, F, IB)
        mean = tl.sum(load(w_first_ptr + at, ok), 1)[:, None] / F
        tl.store(w_ptr + at, tiles[part] + mean, mask=ok)
    mean = tl.sum(load(b_first_ptr + cols, cols < F), 0) / F
    _store_bias(b_ptr, B + mean, cols, F)


@triton.jit
def _store_bias(b_ptr, B, cols, F: tl.constexpr):
    """Store one of the equal rows of B [K, FP]."""
    row = tl.arange(0, B.shape[0])[:, None]
    tl.store(b_ptr + row * 0 + cols[None, :], B, mask=(row == 0) & (cols[None, :] < F))


@triton.jit
def _save(w_ptr, b_ptr, saved, tiles, B, cols, F: tl.constexpr, IB: tl.constexpr):
    """Store tiles and bias as number `saved` of the states between blocks."""
    for part in tl.static_range((F + IB - 1) // IB):
        at, ok = _tile(part, cols, F, IB)
        store(w_ptr + saved * F * F + at, tiles[part], ok)
    _store_bias(b_ptr + saved * F, B, cols, F)


@triton.jit
def _times(
    x_ptr, stride, left, tiles, acc,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """acc + x W, [K, FP], for the mini-batch at x_ptr, of which `left` tokens exist."""
    rows, inner = tl.arange(0, K)[:, None], tl.arange(0, IB)[None, :]
    for part in tl.static_range((F + IB - 1) // IB):
        at = part * IB + inner
        x = load(x_ptr + rows * stride + at, (rows < left) & (at < F))  # [K, IB]
        acc = mma(x, tiles[part], acc, BF16)
    return acc


@triton.jit
def _plus_outer(
    x_ptr, stride, left, h, tiles,
    F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """The tiles of W + x^T h, for h [K, FP]."""
    rows, inner = tl.arange(0, K)[None, :], tl.arange(0, IB)[:, None]
    after = ()
    for part in tl.static_range((F + IB - 1) // IB):
        at = part * IB + inner
        x = load(x_ptr + rows * stride + at, (rows < left) & (at < F))  # [IB, K]
        after = after + (mma(x, h, tiles[part], BF16),)
    return after


@triton.jit
def _carried(
    scores_ptr, before, left, j: tl.constexpr, h, z, begin: tl.constexpr, end: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Carry the update h [K, FP] by mini-batch j over to z [K, FP] of mini-batches begin .. end - 1.

    z_m + (K_m K_j^T + 1) h, with the products of keys formed beforehand (targets.py).
    """
    rows, cols = tl.arange(0, K)[:, None], tl.arange(0, K)[None, :]
    after = ()
    for m in tl.static_range(BLOCK):
        if m >= begin and m < end:
            at = (before + m * K + rows) * (BLOCK * K) + j * K + cols
            scores = load(scores_ptr + at, rows < left - m * K)  # [K, K]
            after = after + (mma(scores, h, z[m], BF16),)
        else:
            after = after + (z[m],)
    return after
