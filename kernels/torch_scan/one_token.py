"""One token of the inner learner: the same function as a scan's, with the cost of a token.

Inside a mini-batch all inner gradients are taken at the weights W in front of it, and token i reads

    W_i = W - tau_i A_i,   A_i = sum over j <= i of lambda_j grad_j        (arXiv 2407.04620, section 2.4)

so W and the sums A are all that a token needs of those before it, whatever the length K of a mini-batch. A
row may stand anywhere in its own mini-batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tttscale.kernels.torch_scan.gelu import gelu, gelu_and_slope
from tttscale.kernels.torch_scan.inner_loss import gradient, normalise

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
        sums: A of the tokens before, of the same shapes; zeros (or None) before the first of a mini-batch.

    Returns:
        The outputs [B, H, f], as `ttt_scan` returns them, and A with this token.
    """
    u = norm_weight * (norm_bias + k - v)
    read = _linear if kind == "linear" else _mlp
    before = (None,) * len(state) if sums is None else sums
    z, now = read(q, k, u, norm_weight.square(), lr[..., None], tau[:, None, None], state, before)
    return torch.addcmul(q + norm_bias, norm_weight, normalise(z)[0]), now


def _linear(
    q: Tensor,
    k: Tensor,
    u: Tensor,
    gamma2: Tensor,
    lr: Tensor,
    tau: Tensor,
    state: State,
    sums: Sequence[Tensor | None],
) -> tuple[Tensor, State]:
    W, b = state
    z, now = (torch.stack([k, q], dim=-2) @ W + b).unbind(-2)
    A, a = _added(sums, k, lr * gradient(z, u, gamma2))
    return now - tau * _layer(q, A, a), (A, a)


def _mlp(
    q: Tensor,
    k: Tensor,
    u: Tensor,
    gamma2: Tensor,
    lr: Tensor,
    tau: Tensor,
    state: State,
    sums: Sequence[Tensor | None],
) -> tuple[Tensor, State]:
    W1, b1, W2, b2 = state
    z1, now1 = (torch.stack([k, q], dim=-2) @ W1 + b1).unbind(-2)
    hidden, slope = gelu_and_slope(z1)
    G2 = lr * gradient(_layer(hidden, W2, b2), u, gamma2)
    G1 = (W2 @ G2.unsqueeze(-1)).squeeze(-1) * slope
    A1, a1 = _added(sums[:2], k, G1)
    A2, a2 = _added(sums[2:], hidden, G2)
    read = gelu(now1 - tau * _layer(q, A1, a1))
    return _layer(read, W2, b2) - tau * _layer(read, A2, a2), (A1, a1, A2, a2)


def _layer(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """X W + b of one vector for each row and head, [B, H, i] -> [B, H, o]."""
    return (x.unsqueeze(-2) @ W + b).squeeze(-2)


def _added(sums: Sequence[Tensor | None], x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """A + x^T grad and a + grad."""
    (A, a), column, row = sums, x.unsqueeze(-1), grad.unsqueeze(-2)
    if A is None or a is None:
        return column * row, row
    return torch.addcmul(A, column, row), a + row
