"""The door to one token of the inner learner, for generation: in plain torch, or by one Triton kernel."""

import os

import torch
from torch import Tensor

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.scan import Backend
from tttscale.kernels.torch_scan import one_token as in_torch
from tttscale.kernels.triton_scan.launch_table import SIZES, architecture_of, why_no_launch

State = tuple[Tensor, ...]
"""(W1, b1) or (W1, b1, W2, b2): [B, H, i, o] and [B, H, 1, o]."""


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
    *,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Read one token of every row, and add its gradients to the sums. Nothing is written in place.

    Args:
        kind: of the inner learner, "linear" or "mlp".
        q: [B, H, f], rotated, fp32 or wider, as all tensors here.
        k: keys, rotated.
        v: values.
        lr: lambda [B, H].
        tau: [B], of each row's place in its mini-batch; [1] if all have the same.
        norm_weight: [H, f] of the inner LayerNorm.
        norm_bias: [H, f].
        state: the weights in front of the mini-batch.
        sums: of the tokens before in the mini-batch, of the same shapes; None before its first.
        backend: "torch", "triton" or "auto", which is Triton on GPUs wherever it has a kernel (fp32, f up to
            128).

    Returns:
        The outputs [B, H, f], as `ttt_scan` returns them, and the sums with this token.

    Raises:
        ValueError: "triton" was asked for, and has no kernel for them.
    """
    run = in_torch.one_token
    if backend != "torch":  # what is asked for each token of each layer takes no more than it must
        chosen = choose_token_backend(backend, kind, q.device, q.shape[-1], q.dtype)
        if chosen.name == "triton":
            from tttscale.kernels.triton_scan import one_token as in_triton

            run = in_triton.one_token
    return run(kind, q, k, v, lr, tau, norm_weight, norm_bias, state, sums)


def choose_token_backend(
    backend: str, kind: str, device: torch.device, dim: int, dtype: torch.dtype
) -> Backend:
    """Choose what reads a token, as `one_token` does.

    Args:
        backend: "torch", "triton" or "auto".
        kind: name of the inner learner.
        device: of the token.
        dim: features of a head, f.
        dtype: of the token and the state.

    Raises:
        ValueError: "triton" was asked for, and has no kernel for them.
    """
    if backend == "torch":
        return Backend("torch", "were not asked for")
    if backend == "auto" and device.type != "cuda":
        return Backend("torch", "are for GPUs")
    missing = _why_not_triton(kind, device, dim, dtype)
    if backend == "triton" and missing:
        raise ValueError(f"one_token: backend 'triton' {missing}; use 'auto' or 'torch'")
    return Backend("torch" if missing else "triton", missing)


def _why_not_triton(kind: str, device: torch.device, dim: int, dtype: torch.dtype) -> str | None:
    if LEARNERS[kind].triton_token is None:
        return f"does not exist for {kind}"
    if dtype != torch.float32:
        return f"takes fp32, not {str(dtype).removeprefix('torch.')}"
    if missing := why_no_launch(architecture_of(device), dim, SIZES[0], dtype):
        return missing
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "needs a GPU, or TRITON_INTERPRET=1 in the environment to be interpreted on a CPU"
    return None
