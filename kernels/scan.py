"""The one door to the TTT scan: `ttt_scan`, differentiable in every input and in the final state.

A scan has two phases. *advance* is serial: state in -> inner gradients and state out. *readout* is
parallel: inner gradients -> outputs. The backward has the same cut. A `StateHooks` lets the caller use the
gaps between the phases: the state out is there before readout begins, and the gradient of the state in
before the gradients of the tokens are computed.
"""

import os
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.precision import wide_dtype, without_autocast
from tttscale.kernels.torch_scan.group_scan import flatten, unflatten
from tttscale.kernels.triton_scan.launch_table import architecture_of, why_no_launch

State = tuple[Tensor, ...]
"""(W1, b1) or (W1, b1, W2, b2): [B, H, f, f], [B, H, 1, f], or [B, H, f, 4f], [B, H, 1, 4f], ..."""


class StateHooks(Protocol):
    """What the caller does between the phases of a scan."""

    @property
    def peer_waits_for_state(self) -> bool:
        """Another rank waits for the final state: finish *advance* before any *readout*."""
        ...

    @property
    def peer_waits_for_grad(self) -> bool:
        """The final state's gradient comes from another rank, or the initial state's goes to one."""
        ...

    def send_state(self, state: State) -> None:
        """Called with the final state as soon as *advance* ends, before *readout*."""
        ...

    def recv_grad(self) -> State | None:
        """Called in the backward when the final state's gradient from outside is needed."""
        ...

    def send_grad(self, grad: State) -> None:
        """Called with the initial state's gradient before the tokens' gradients are computed."""
        ...


def ttt_scan(
    kind: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    token_idx: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State,
    *,
    mini_batch_size: int,
    backend: str = "auto",
    hooks: StateHooks | None = None,
) -> tuple[Tensor, State]:
    """Run the inner learner over T tokens (paper, dual form with mini-batch gradient descent).

    Args:
        kind: name of the inner learner, "linear" or "mlp" (learners.py).
        q: [B, H, T, f], rotated; k, v likewise.
        k: keys.
        v: values.
        lr: [B, H, T], base_lr * sigmoid(.) / f already applied.
        token_idx: [K], 1/(i+1) plus its learnable offset, already clamped at 0.
        norm_weight: [H, f] of the inner LayerNorm.
        norm_bias: [H, f].
        state: (W1, b1) or (W1, b1, W2, b2), [B, H, ...], fp32 (fp64 for fp64 inputs).
        mini_batch_size: K; T may be any length, a last short mini-batch is exact.
        backend: "torch", "triton" or "auto", which is Triton on GPUs wherever it has a kernel
            (fp32 and bf16, fp16 as fp32; f up to 128; K of 16, 32 or 64).
        hooks: told of the state and its gradient between the phases; see `StateHooks`.

    Returns:
        out [B, H, T, f] in q's dtype, before the layer's post-norm, and the final state.

    Raises:
        ValueError: unknown kind or backend, shapes that do not fit, or no Triton kernel for them.
    """
    if kind not in LEARNERS:
        raise ValueError(f"ttt_scan: kind {kind!r}; expected one of {sorted(LEARNERS)}")
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"ttt_scan: backend {backend!r}; expected 'auto', 'torch' or 'triton'")
    if token_idx.shape != (mini_batch_size,):
        raise ValueError(f"token_idx {tuple(token_idx.shape)}; expected ({mini_batch_size},)")
    if k.shape != q.shape or v.shape != q.shape or lr.shape != q.shape[:3]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, lr {tuple(lr.shape)}: "
            "expected three [B, H, T, f] and one [B, H, T]"
        )
    if 0 in q.shape:
        raise ValueError(
            f"q {tuple(q.shape)}: a scan needs at least one row, head, token and feature"
        )
    _check_heads(kind, q, norm_weight, norm_bias, state)
    scan, dtype = _scan_type(kind, backend, q, mini_batch_size), q.dtype
    if scan is not LEARNERS[kind].scan_class("torch"):
        q, k, v = (x.to(_kernel_dtype(dtype)) for x in (q, k, v))
    out, *last = _Scan.apply(
        scan, mini_batch_size, hooks, q, k, v, lr, token_idx, norm_weight, norm_bias, *state
    )
    return out.to(dtype), tuple(last)


class Backend(NamedTuple):
    """What runs a scan."""

    name: str
    """torch or triton."""
    missing: str | None
    """Why it is not the faster one, as the rest of a sentence about Triton's kernels."""


def choose_backend(
    backend: str, kind: str, device: torch.device, dim: int, size: int, dtype: torch.dtype
) -> Backend:
    """Choose what runs a scan, as `ttt_scan` does, for callers who want to say it beforehand.

    Args:
        backend: "torch", "triton" or "auto".
        kind: name of the inner learner.
        device: of the tokens.
        dim: features of a head, f.
        size: tokens of a mini-batch, K.
        dtype: of the tokens.

    Raises:
        ValueError: "triton" was asked for, and has no kernel for them.
    """
    if backend == "torch":
        return Backend("torch", "were not asked for")
    missing = _why_not_triton(kind, device, dim, size, dtype)
    if backend == "triton":
        if missing:
            raise ValueError(f"ttt_scan: backend 'triton' {missing}; use 'auto' or 'torch'")
        return Backend("triton", None)
    if device.type != "cuda":
        missing = "are for GPUs"
    return Backend("torch" if missing else "triton", missing)


def _scan_type(kind: str, backend: str, q: Tensor, size: int) -> Any:
    """The class that runs the phases."""
    chosen = choose_backend(backend, kind, q.device, q.shape[3], size, q.dtype)
    return LEARNERS[kind].scan_class(chosen.name)


def _kernel_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a Triton kernel takes tokens: fp32 for fp16, which products would overflow."""
    return torch.float32 if dtype == torch.float16 else dtype


def _why_not_triton(
    kind: str, device: torch.device, dim: int, size: int, dtype: torch.dtype
) -> str | None:
    if LEARNERS[kind].triton is None:
        return f"does not exist for {kind}"
    if missing := why_no_launch(architecture_of(device), dim, size, _kernel_dtype(dtype)):
        return missing
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "needs a GPU, or TRITON_INTERPRET=1 in the environment to be interpreted on a CPU"
    return None


def _check_heads(
    kind: str, q: Tensor, norm_weight: Tensor, norm_bias: Tensor, state: State
) -> None:
    batch, heads, _, f = q.shape
    for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if tensor.shape != (heads, f):
            raise ValueError(f"{name} {tuple(tensor.shape)}; expected ({heads}, {f})")
    wanted = list(LEARNERS[kind].state_shapes(batch, heads, f))
    if (found := [tuple(s.shape) for s in state]) != wanted:
        raise ValueError(f"state {found}; expected {wanted}")


def _send_state(hooks: StateHooks | None, last: State) -> None:
    """The final state, as other tensors than those that are returned.

    Those will know the scan's node, and through it the hooks, which could not keep them and be freed.
    """
    if hooks is not None:
        hooks.send_state(tuple(s.detach() for s in last))


class _Scan(torch.autograd.Function):
    """Either backend; states, statistics and accumulation are fp32 or wider."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, scan_type: Any, size: int, hooks: StateHooks | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Seven inputs and the state -> outputs and the final state; tells the hooks in between."""
        inputs, state = tensors[:7], tensors[7:]
        dtype = wide_dtype(inputs[0].dtype)
        ctx.meta = (scan_type, size, dtype, hooks)
        scan = scan_type(inputs, size, dtype)
        if hooks is not None and hooks.peer_waits_for_state:
            saved, last = scan.advance(state)
            _send_state(hooks, last)
            out = scan.readout(saved)
        else:
            out, saved, last = scan.forward(state)
            _send_state(hooks, last)
        ctx.save_for_backward(*inputs, *flatten([scan.lean(kept) for kept in saved]))
        ctx.state_dtypes = [s.dtype for s in state]
        return out, *last

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, d_out: Tensor, *d_last: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs and of the state; asks and tells the hooks in between."""
        scan_type, size, dtype, hooks = ctx.meta
        inputs, kept = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
        scan = scan_type(inputs, size, dtype)
        saved = unflatten(kept, len(scan.groups))
        awaited = hooks is not None and hooks.peer_waits_for_grad
        bwds = scan.readout_backward(saved, d_out) if awaited else []
        if hooks is not None and (outside := hooks.recv_grad()) is not None:
            d_last = tuple(mine + theirs for mine, theirs in zip(d_last, outside, strict=True))
        if hooks is not None and awaited:
            d_state = scan.advance_backward(saved, bwds, d_last)
            hooks.send_grad(d_state)
            grads = scan.gradients(saved, bwds)
        else:
            d_state, grads = scan.backward(saved, d_out, d_last)
            if hooks is not None:
                hooks.send_grad(d_state)
        typed = [g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)]
        d_typed = [g.to(t) for g, t in zip(d_state, ctx.state_dtypes, strict=True)]
        return None, None, None, *typed, *d_typed
