"""The parallel part of TTT-Linear's backward: everything that needs no gradient of the state, in one kernel.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); K tokens of a mini-batch; BLOCK mini-batches of a block (64 tokens in bf16, 32 in fp32; no CUDA
block).

One program (CTA) per block of mini-batches and scan, as in readout.py, in three phases: what the reverse
chain needs of the tokens alone, the Jacobian at the keys, what the readers ask. They read the same tokens and
states; in one program all but the first to do so find them in a cache.

What a phase needs again after a store is loaded or formed again: kept, it would occupy registers all the way.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.inner_loss import store_jacobian, store_norm_sums
from tttscale.kernels.triton_scan.linear.readout import load_state, read_state
from tttscale.kernels.triton_scan.ops import (
    block_of,
    load,
    mma,
    narrow,
    norm_backward,
    normalised,
    rates_of,
    store,
    tau_sums,
)
from tttscale.kernels.triton_scan.targets import targets_kernel


@triton.jit
def _jacobian(
    k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, g_ptr, w_saved_ptr, b_saved_ptr,
    normed_ptr, plane_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Form the keys' Z again, and store what the Jacobian of G there needs (`store_jacobian`)."""
    head, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    tile = rows[:, None] * F + cols[None, :]
    # [BLOCK K, FP]; W is [FP, FP].
    k, g = load(k_ptr + tokens + token, here), load(g_ptr + before * F + tile, here)
    W, b = load_state(w_saved_ptr + saved * F * F, b_saved_ptr + saved * F, cols, F)
    lam, _, moves = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)
    z, _ = read_state(k, k, g, W, b, moves, lam, BF16)
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
    miss = beta - load(v_ptr + tokens + token, here) + k
    store_jacobian(
        normed_ptr + before * F, plane_ptr + before, tile, rows, here, scans.to(tl.int64) * T,
        z, miss, gamma, cols_ok, F,
    )  # fmt: skip


@triton.jit
def _readers(
    q_ptr, k_ptr, lr_ptr, tau_ptr, gamma_ptr, g_ptr, w_saved_ptr, b_saved_ptr, d_out_ptr,
    dzq_ptr, local_ptr, asked_ptr, dtau_ptr, dlast_ptr, dnorm_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Store dzq, and the share of dG that comes from this block's readers; gradients of tau."""
    head, rows, cols, rows_ok, tokens, token, before, saved = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    tile = rows[:, None] * F + cols[None, :]
    # [BLOCK K, FP], as is g; W is [FP, FP].
    q, k = load(q_ptr + tokens + token, here), load(k_ptr + tokens + token, here)
    g = load(g_ptr + before * F + tile, here)
    W, b = load_state(w_saved_ptr + saved * F * F, b_saved_ptr + saved * F, cols, F)
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)

    # Readers: their pre-norm output again, then its gradient.
    zq, scores = read_state(q, k, g, W, b, reads, lam, BF16)
    normed, rstd = normalised(zq, cols_ok, F)
    d_out = load(d_out_ptr + tokens + token, here)
    store_norm_sums(dnorm_ptr + saved * 2 * F, cols, d_out * normed, d_out, F)
    gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
    dzq = norm_backward(d_out * gamma, normed, rstd, cols_ok, F)
    store(dzq_ptr + before * F + tile, dzq, here)
    g = load(g_ptr + before * F + tile, here)
    dtau, dlast = tau_sums(rows, mma(dzq, tl.trans(g), tl.zeros_like(scores), BF16), scores, lam, K)
    tl.store(dtau_ptr + before + rows, dtau, mask=rows_ok)
    tl.store(dlast_ptr + saved, dlast)
    lam, reads, _ = rates_of(lr_ptr + before, tau_ptr, rows, rows_ok, K)

    # Sources: rows are now the tokens that are read.
    asked = tl.trans(narrow(scores * reads, BF16))
    asked = mma(asked, dzq, tl.zeros([BLOCK * K, FP], tl.float32), BF16)
    store(local_ptr + before * F + tile, -lam[:, None] * asked, here)
    tl.store(asked_ptr + before + rows, tl.sum(asked * g, 1), mask=rows_ok)


@triton.jit(do_not_specialize=["T", "heads", "scans"])
def readout_backward_kernel(
    q_ptr, k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, g_ptr, w_saved_ptr, b_saved_ptr, d_out_ptr,
    step_ptr, scores_ptr, normed_ptr, plane_ptr,
    dzq_ptr, local_ptr, asked_ptr, dtau_ptr, dlast_ptr, dnorm_ptr,
    stride_b, stride_h, stride_t, T, heads, scans,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Run all phases of one block. Grid: (blocks, N)."""
    # The conditions always hold. They and the barriers keep what phases have in common out of registers.
    if heads > 0:
        targets_kernel(
            k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, step_ptr, None, None, scores_ptr,
            stride_b, stride_h, stride_t, T, heads, F, FP, K, BLOCK, BF16,
        )  # fmt: skip
    tl.debug_barrier()
    if scans > 0:
        _jacobian(
            k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, g_ptr, w_saved_ptr, b_saved_ptr,
            normed_ptr, plane_ptr,
            stride_b, stride_h, stride_t, T, heads, scans, F, FP, K, BLOCK, BF16,
        )  # fmt: skip
    tl.debug_barrier()
    if T > 0:
        _readers(
            q_ptr, k_ptr, lr_ptr, tau_ptr, gamma_ptr, g_ptr, w_saved_ptr, b_saved_ptr, d_out_ptr,
            dzq_ptr, local_ptr, asked_ptr, dtau_ptr, dlast_ptr, dnorm_ptr,
            stride_b, stride_h, stride_t, T, heads, F, FP, K, BLOCK, BF16,
        )  # fmt: skip
