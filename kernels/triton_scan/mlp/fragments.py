"""Tensors in fragment order: laid out in memory as a product's threads hold them in registers.

Legend: F features of a head (FP: rounded up to a power of two); 4 F hidden features, IB of them in a tile,
the first at `at`; K tokens of a mini-batch, TOKENS any multiple of 16 of them.

In an accumulator of 16 rows and 8 columns (the result of an mma instruction), thread l of a warp holds rows l
// 4 and l // 4 + 8, columns 2 (l % 4) and the next. Memory in this order is read and written in runs of 16
bytes per thread, and threads exchange nothing. It is a permutation and no more: where the compiler holds a
tile in another layout, it converts through shared memory, and the numbers are the same. Only the serial
kernels read tensors in this order. fp32 products do not run on tensor cores: in fp32 everything stays in
plain order, hidden tensors as [T, I], states as [I, FP].

A hidden tensor is [T / 16, I / 16] tiles of 256 numbers, T and I rounded up. A tile is [8, 4, 2, 2, 2]: the
feature % 8, token % 8 / 2, token / 8, feature / 8, token % 2. A state is one tile [IB, FP] after the other.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.mlp.tiles import load_tile, store_tile
from tttscale.kernels.triton_scan.ops import load, store


@triton.jit
def hidden_width(F: tl.constexpr):
    """Numbers of a token in a hidden tensor: 4 F, rounded up to a multiple of 16."""
    return (4 * F + 15) // 16 * 16


@triton.jit
def _runs(at, F: tl.constexpr, TOKENS: tl.constexpr, IB: tl.constexpr):
    """Offsets [TOKENS / 16, 16 IB] of the features from `at` on, and which of them exist."""
    width: tl.constexpr = (4 * F + 15) // 16 * 256
    along = at * 16 + tl.arange(0, IB * 16)[None, :]
    return tl.arange(0, TOKENS // 16)[:, None] * width + along, along < width


@triton.jit
def _rows(at, F: tl.constexpr, TOKENS: tl.constexpr, IB: tl.constexpr):
    """The same in plain order, [TOKENS, IB]."""
    width: tl.constexpr = (4 * F + 15) // 16 * 16
    inner = at + tl.arange(0, IB)[None, :]
    return tl.arange(0, TOKENS)[:, None] * width + inner, inner < width


@triton.jit
def load_hidden(ptr, at, F: tl.constexpr, K: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr):
    """Load [IB, K]: the hidden features from `at` on, as rows, of the mini-batch at ptr."""
    tiles: tl.constexpr = (4 * F + 15) // 16 * 16 // IB
    if BF16:
        runs, ok = _runs(at, F, K, IB)
        if tiles * IB >= 4 * F:  # none sticks out
            ok = tl.full(ok.shape, 1, tl.int1)
        x = tl.reshape(load(ptr + runs, ok), (K // 16, IB // 16, 8, 4, 2, 2, 2))
        return tl.reshape(tl.permute(x, (1, 5, 2, 0, 4, 3, 6)), (IB, K))
    else:
        rows, ok = _rows(at, F, K, IB)
        return load(ptr + tl.trans(rows), tl.trans(ok))


@triton.jit
def store_hidden(ptr, at, x, F: tl.constexpr, BF16: tl.constexpr):
    """Store x [TOKENS, IB], features from `at` on of the tokens at ptr; also rows after the last token."""
    TOKENS: tl.constexpr = x.shape[0]
    IB: tl.constexpr = x.shape[1]
    if BF16:
        runs, ok = _runs(at, F, TOKENS, IB)
        x = tl.reshape(x, (TOKENS // 16, 2, 4, 2, IB // 16, 2, 8))
        x = tl.permute(x, (0, 4, 6, 2, 1, 5, 3))
        store(ptr + runs, tl.reshape(x, (TOKENS // 16, IB * 16)), ok)
    else:
        rows, ok = _rows(at, F, TOKENS, IB)
        store(ptr + rows, x, ok)


@triton.jit
def _load_matrix(ptr, at, FP: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr):
    """Load [IB, FP]: rows `at` to at + IB."""
    if BF16:
        x = tl.load(ptr + at * FP + tl.arange(0, IB * FP))
        x = tl.reshape(x, (FP // 8, IB // 16, 8, 4, 2, 2))
        return tl.reshape(tl.permute(x, (1, 4, 2, 0, 3, 5)), (IB, FP))
    else:
        return tl.load(ptr + (at + tl.arange(0, IB)[:, None]) * FP + tl.arange(0, FP)[None, :])


@triton.jit
def _store_matrix(ptr, at, x, BF16: tl.constexpr):
    """The inverse of `_load_matrix`."""
    IB: tl.constexpr = x.shape[0]
    FP: tl.constexpr = x.shape[1]
    if BF16:
        x = tl.reshape(x, (IB // 16, 2, 8, FP // 8, 4, 2))
        x = tl.reshape(tl.permute(x, (3, 0, 2, 4, 1, 5)), (IB * FP,))
        tl.store(ptr + at * FP + tl.arange(0, IB * FP), x)
    else:
        tl.store(ptr + (at + tl.arange(0, IB)[:, None]) * FP + tl.arange(0, FP)[None, :], x)


@triton.jit
def load_state(
    w1_ptr, b1_ptr, w2_ptr, at,
    F: tl.constexpr, FP: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Load W1^T and W2 of the features from `at` on, [IB, FP] each, and b1 [IB] (in plain order)."""
    inner = at + tl.arange(0, IB)
    b1 = load(b1_ptr + inner, inner < 4 * F)
    return _load_matrix(w1_ptr, at, FP, IB, BF16), b1, _load_matrix(w2_ptr, at, FP, IB, BF16)


@triton.jit
def store_state(w1_ptr, b1_ptr, w2_ptr, at, W1, b1, W2, F: tl.constexpr, BF16: tl.constexpr):
    """The inverse of `load_state`."""
    _store_matrix(w1_ptr, at, W1, BF16)
    _store_matrix(w2_ptr, at, W2, BF16)
    inner = at + tl.arange(0, W1.shape[0])
    tl.store(b1_ptr + inner, b1, mask=inner < 4 * F)


@triton.jit
def to_fragments(
    w1_ptr, b1_ptr, w2_ptr, w1_tiles_ptr, w2_tiles_ptr, cols,
    F: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Copy a state's W1 [F, 4 F] and W2 [4 F, F] into fragment order."""
    for at in tl.range(0, 4 * F, IB):
        W1, _, W2 = load_tile(w1_ptr, b1_ptr, w2_ptr, at + tl.arange(0, IB), cols, F)
        _store_matrix(w1_tiles_ptr, at, W1, BF16)
        _store_matrix(w2_tiles_ptr, at, W2, BF16)


@triton.jit
def from_fragments(
    w1_ptr, b1_ptr, w2_ptr, w1_tiles_ptr, w2_tiles_ptr, cols,
    F: tl.constexpr, IB: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """The inverse of `to_fragments`."""
    FP: tl.constexpr = cols.shape[0]
    for at in tl.range(0, 4 * F, IB):
        W1, b1, W2 = load_state(w1_tiles_ptr, b1_ptr, w2_tiles_ptr, at, F, FP, IB, BF16)
        store_tile(w1_ptr, b1_ptr, w2_ptr, at + tl.arange(0, IB), cols, W1, b1, W2, F)
