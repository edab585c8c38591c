"""One token of TTT-MLP: its inner gradients, the sums with them, and what its query reads.

Legend: n one of N = rows x heads; F features of a head (FP: rounded up to a power of two); I = 4 F hidden
features, the IB of a tile are `inner`. Formulas: ../../torch_scan/one_token.py.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import gradient_of_row, normalised_row
from tttscale.kernels.triton_scan.ops import gelu, gelu_and_slope, load


@triton.jit
def _tiles(begin, cols, F: tl.constexpr, IB: tl.constexpr):
    """Offsets of columns of W1 [FP, IB] and rows of W2 [IB, FP], which of them exist, and of b1 [IB]."""
    I: tl.constexpr = 4 * F
    inner = begin + tl.arange(0, IB)
    ok1 = (cols[:, None] < F) & (inner[None, :] < I)
    ok2 = (inner[:, None] < I) & (cols[None, :] < F)
    at1, at2 = cols[:, None] * I + inner[None, :], inner[:, None] * F + cols[None, :]
    return at1, ok1, at2, ok2, inner, inner < I


@triton.jit(do_not_specialize=["tau_stride", "heads"])
def one_token_kernel(
    q_ptr, k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr,
    w1_ptr, b1_ptr, w2_ptr, b2_ptr, w1_sum_ptr, b1_sum_ptr, w2_sum_ptr, b2_sum_ptr,
    out_ptr, w1_now_ptr, b1_now_ptr, w2_now_ptr, b2_now_ptr, tau_stride, heads,
    F: tl.constexpr, FP: tl.constexpr, IB: tl.constexpr,
):  # fmt: skip
    """Both layers' inner gradients at the key, the sums with them, and the output. Grid: (N,).

    *_sum: the sums before this token, None for zeros; *_now: with it.
    """
    I: tl.constexpr = 4 * F
    n = tl.program_id(0).to(tl.int64)
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    cols = tl.arange(0, FP)
    cols_ok = cols < F
    token, matrix, wide = n * F + cols, n * F * I, n * I
    k, q = load(k_ptr + token, cols_ok), load(q_ptr + token, cols_ok)

    b2 = load(b2_ptr + token, cols_ok)
    z2 = b2
    for begin in range(0, I, IB):
        at1, ok1, at2, ok2, inner, inner_ok = _tiles(begin, cols, F, IB)
        z1 = load(b1_ptr + wide + inner, inner_ok)
        z1 += tl.sum(k[:, None] * load(w1_ptr + matrix + at1, ok1), 0)  # [IB]
        z2 += tl.sum(gelu(z1)[:, None] * load(w2_ptr + matrix + at2, ok2), 0)  # [FP]

    gamma, beta = (
        load(gamma_ptr + head * F + cols, cols_ok),
        load(beta_ptr + head * F + cols, cols_ok),
    )
    u = gamma * (beta + k - load(v_ptr + token, cols_ok))
    G2 = tl.load(lr_ptr + n) * gradient_of_row(z2, u, gamma, cols_ok, F)
    a2 = G2
    if b2_sum_ptr is not None:
        a2 += load(b2_sum_ptr + token, cols_ok)
    tl.store(b2_now_ptr + token, a2, mask=cols_ok)

    tau = tl.load(tau_ptr + row * tau_stride)
    read2 = b2 - tau * a2
    for begin in range(0, I, IB):
        at1, ok1, at2, ok2, inner, inner_ok = _tiles(begin, cols, F, IB)
        W1, W2 = load(w1_ptr + matrix + at1, ok1), load(w2_ptr + matrix + at2, ok2)
        b1 = load(b1_ptr + wide + inner, inner_ok)
        hidden, slope = gelu_and_slope(b1 + tl.sum(k[:, None] * W1, 0))
        a1 = tl.sum(W2 * G2[None, :], 1) * slope
        A1, A2 = k[:, None] * a1[None, :], hidden[:, None] * G2[None, :]
        if b1_sum_ptr is not None:
            a1 += load(b1_sum_ptr + wide + inner, inner_ok)
            A1 += load(w1_sum_ptr + matrix + at1, ok1)
            A2 += load(w2_sum_ptr + matrix + at2, ok2)
        tl.store(b1_now_ptr + wide + inner, a1, mask=inner_ok)
        tl.store(w1_now_ptr + matrix + at1, A1, mask=ok1)
        tl.store(w2_now_ptr + matrix + at2, A2, mask=ok2)
        read1 = tl.sum(q[:, None] * W1, 0) + b1 - tau * (tl.sum(q[:, None] * A1, 0) + a1)
        read2 += tl.sum(gelu(read1)[:, None] * (W2 - tau * A2), 0)
    tl.store(out_ptr + token, q + beta + gamma * normalised_row(read2, cols_ok, F), mask=cols_ok)
