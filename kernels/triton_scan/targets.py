"""Inputs of both learners' chains that depend on tokens alone: targets, steps, and products of keys.

Legend: T tokens of a scan, n one of N = sequences x heads scans; F features of a head (FP: rounded up to a
power of two); K tokens of a mini-batch; BLOCK mini-batches of a block (64 tokens in bf16, 32 in fp32; no CUDA
block).
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from tttscale.kernels.triton_scan.ops import block_of, load, mma, store


@triton.jit(do_not_specialize=["T", "heads"])
def targets_kernel(
    k_ptr, v_ptr, lr_ptr, tau_ptr, gamma_ptr, beta_ptr, step_ptr, u_ptr, moved_ptr, scores_ptr,
    stride_b, stride_h, stride_t, T, heads,
    F: tl.constexpr, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    """Store step and, where not None: u = gamma (beta - v + k) without its mean, step k, and k k^T + 1.

    Grid: (blocks, N). step: fp32 [N, T]; u: fp32 [N, T, F]; moved = step k: [N, T, F]; scores: [N, T, BLOCK
    K], the products of a token's key with those of its block.
    """
    head, rows, cols, rows_ok, tokens, token, before, _ = block_of(
        stride_b, stride_h, stride_t, T, heads, FP, K, BLOCK
    )
    cols_ok = cols[None, :] < F
    here = rows_ok[:, None] & cols_ok
    tile = rows[:, None] * F + cols[None, :]
    left = T - tl.program_id(0) * BLOCK * K - (rows // K) * K
    last = tl.load(tau_ptr + tl.minimum(tl.maximum(left, 1), K) - 1)  # of the token's mini-batch
    step = -last * load(lr_ptr + before + rows, rows_ok)  # [BLOCK K]
    tl.store(step_ptr + before + rows, step, mask=rows_ok)
    k = load(k_ptr + tokens + token, here)  # [BLOCK K, FP]
    if moved_ptr is not None:
        store(moved_ptr + before * F + tile, k * step[:, None], here)
    if u_ptr is not None:
        gamma = load(gamma_ptr + head * F + cols, cols < F)[None, :]
        beta = load(beta_ptr + head * F + cols, cols < F)[None, :]
        u = tl.where(cols_ok, gamma * (beta - load(v_ptr + tokens + token, here) + k), 0.0)
        tl.store(u_ptr + before * F + tile, u - tl.sum(u, 1)[:, None] / F, mask=here)
    if scores_ptr is not None:
        zero = tl.zeros([BLOCK * K, BLOCK * K], tl.float32)
        at = rows[:, None] * (BLOCK * K) + rows[None, :]
        scores = mma(k, tl.trans(k), zero, BF16) + 1
        store(scores_ptr + before * (BLOCK * K) + at, scores, rows_ok[:, None])
