"""One token of TTT-Linear: its inner gradient, the sums with it, and what its query reads.

Legend: n one of N = rows x heads; F features of a head (FP: rounded up to a power of two); IB rows of a tile
of W. Formulas: ../../torch_scan/one_token.py.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import gradient_of_row, normalised_row
from tttscale.kernels.triton_scan.ops import load


@triton.jit(do_not_specialize=["tau_stride", "heads"])
def one_token_kernel(
    q_ptr, k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, w_ptr, b_ptr,
    w_sum_ptr, b_sum_ptr, out_ptr, w_now_ptr, b_now_ptr, tau_stride, heads,
    F: tl.constexpr, FP: tl.constexpr, IB: tl.constexpr,
):  # fmt: skip
    """G = lam g(k W + b), A += k^T G, a += G, out = q + LN(q W + b - tau (q A + a)). Grid: (N,).

    w_sum, b_sum: A and a before this token, None for zeros; w_now, b_now: with it.
    """
    n = tl.program_id(0).to(tl.int64)
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    cols = tl.arange(0, FP)
    cols_ok = cols < F
    token, matrix = n * F + cols, n * F * F

    b = load(b_ptr + token, cols_ok)
    z, read = b, b  # of the key and of the query, [FP]
    for begin in range(0, F, IB):
        rows = begin + tl.arange(0, IB)
        ok = (rows[:, None] < F) & cols_ok[None, :]
        W = load(w_ptr + matrix + rows[:, None] * F + cols[None, :], ok)  # [IB, FP]
        z += tl.sum(load(k_ptr + n * F + rows, rows < F)[:, None] * W, 0)
        read += tl.sum(load(q_ptr + n * F + rows, rows < F)[:, None] * W, 0)

    gamma, beta = (
        load(gamma_ptr + head * F + cols, cols_ok),
        load(beta_ptr + head * F + cols, cols_ok),
    )
    u = gamma * (beta + load(k_ptr + token, cols_ok) - load(v_ptr + token, cols_ok))
    G = tl.load(lr_ptr + n) * gradient_of_row(z, u, gamma, cols_ok, F)
    a = G
    if b_sum_ptr is not None:
        a += load(b_sum_ptr + token, cols_ok)
    tl.store(b_now_ptr + token, a, mask=cols_ok)

    for begin in range(0, F, IB):
        rows = begin + tl.arange(0, IB)
        ok = (rows[:, None] < F) & cols_ok[None, :]
        at = matrix + rows[:, None] * F + cols[None, :]
        A = load(k_ptr + n * F + rows, rows < F)[:, None] * G[None, :]
        if w_sum_ptr is not None:
            A += load(w_sum_ptr + at, ok)
        tl.store(w_now_ptr + at, A, mask=ok)
        a += tl.sum(load(q_ptr + n * F + rows, rows < F)[:, None] * A, 0)
    read -= tl.load(tau_ptr + row * tau_stride) * a
    q = load(q_ptr + token, cols_ok)
    tl.store(out_ptr + token, q + beta + gamma * normalised_row(read, cols_ok, F), mask=cols_ok)
