"""One token of every row and head by one kernel; what it computes is in ../torch_scan/one_token.py.

A program has the token of one row and head. It reads the state twice (once for the inner gradient, once for
what the query reads) and the sums once, and writes the sums with this token to new tensors. How long the
mini-batch is does not enter.
"""

import torch
from torch import Tensor

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.triton_scan.launch_table import SIZES, architecture_of, launch_of
from tttscale.kernels.triton_scan.segment import padded

State = tuple[Tensor, ...]


def one_token(
    kind: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    tau: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State,
    sums: State | None,
    architecture: int | None = None,
) -> tuple[Tensor, State]:
    """Read one token of every row; see `tttscale.kernels.one_token`.

    Args:
        kind: of the inner learner.
        q: [B, H, f]; q, k and v in fp32, bf16 or fp16, all else in fp32.
        k: keys.
        v: values.
        lr: [B, H].
        tau: [B] or [1].
        norm_weight: [H, f].
        norm_bias: [H, f].
        state: [B, H, i, o] each.
        sums: of the same shapes, or None.
        architecture: see launch_table.py; None: of q's device.

    Returns:
        fp32 outputs [B, H, f], and the sums with this token.
    """
    batch, heads, dim = q.shape
    launch = launch_of(
        architecture or architecture_of(q.device), kind, "one_token", dim, SIZES[0], torch.float32
    )
    out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
    now = tuple(torch.empty(w.shape, dtype=torch.float32, device=q.device) for w in state)
    tensors = (q, k, v, lr, tau, norm_weight, norm_bias, *state, *(sums or ()))
    given = [x.contiguous() for x in tensors]
    if sums is None:
        given += [None] * len(state)
    LEARNERS[kind].token_kernel()[(batch * heads,)](
        *given,
        out,
        *now,
        int(len(tau) > 1),
        heads,
        F=dim,
        FP=padded(dim),
        IB=launch.inner_columns,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        maxnreg=launch.max_registers,
        enable_fp_fusion=launch.fused,
    )
    return out, now
