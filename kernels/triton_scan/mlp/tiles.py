"""Tiles of the hidden layer: IB features as rows, of a state (W1 transposed) or of some tokens.

Legend: F features of a head (FP: rounded up to a power of two); 4 F hidden features, the IB of a tile are
`inner`; TOKENS tokens, as columns.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.ops import load, store


@triton.jit
def load_matrix2(w2_ptr, inner, cols, F: tl.constexpr):
    """Load rows `inner` of W2, [IB, FP]."""
    ok = (inner[:, None] < 4 * F) & (cols[None, :] < F)
    return load(w2_ptr + inner[:, None] * F + cols[None, :], ok)


@triton.jit
def tokens_of_tile(inner, rows_ok, F: tl.constexpr, TOKENS: tl.constexpr):
    """Offsets [IB, TOKENS] of a tile's features (rows) at some tokens (columns), and which of them count."""
    wide = tl.arange(0, TOKENS)[None, :] * (4 * F) + inner[:, None]
    return wide, rows_ok[None, :] & (inner[:, None] < 4 * F)


@triton.jit
def load_tile(w1_ptr, b1_ptr, w2_ptr, inner, cols, F: tl.constexpr):
    """Load W1^T and W2 of the hidden features `inner`, [IB, FP] each, and b1 [IB]."""
    ok = (inner[:, None] < 4 * F) & (cols[None, :] < F)
    W1 = load(w1_ptr + cols[None, :] * (4 * F) + inner[:, None], ok)
    return W1, load(b1_ptr + inner, inner < 4 * F), load_matrix2(w2_ptr, inner, cols, F)


@triton.jit
def store_tile(w1_ptr, b1_ptr, w2_ptr, inner, cols, W1, b1, W2, F: tl.constexpr):
    """The inverse of `load_tile`."""
    ok = (inner[:, None] < 4 * F) & (cols[None, :] < F)
    store(w1_ptr + cols[None, :] * (4 * F) + inner[:, None], W1, ok)
    store(w2_ptr + inner[:, None] * F + cols[None, :], W2, ok)
    tl.store(b1_ptr + inner, b1, mask=inner < 4 * F)
