"""The inner loss of each mini-batch before and after its step: for looking at a learner, not for training.

The inner loss of a token is the squared error of the learner f(x) = x + LN(f_res(x)) at k against v, averaged
over the features; what the learner descends is half its sum over them (arXiv 2407.04620, section 2.7).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tttscale.kernels.learners import LEARNERS
from tttscale.kernels.precision import wide_dtype, without_autocast
from tttscale.kernels.torch_scan.gelu import gelu
from tttscale.kernels.torch_scan.group_scan import State, Tokens
from tttscale.kernels.torch_scan.inner_loss import normalise
from tttscale.kernels.torch_scan.minibatch import from_minibatches, matmul


class InnerLosses(NamedTuple):
    """Losses of every token, [B, H, T], fp32 or wider."""

    initial: Tensor
    """At the weights in which a document begins."""
    before: Tensor
    """At the weights in front of the token's mini-batch, where its gradient is taken."""
    after: Tensor
    """At the weights after that mini-batch."""


@torch.no_grad()
@without_autocast
def inner_losses(
    kind: str,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    token_idx: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State,
    initial: State,
    mini_batch_size: int,
) -> InnerLosses:
    """Run the chain of a scan in plain torch, and measure it.

    Args:
        kind: name of the inner learner.
        k: [B, H, T, f], rotated.
        v: [B, H, T, f].
        lr: [B, H, T].
        token_idx: [K].
        norm_weight: [H, f].
        norm_bias: [H, f].
        state: inner weights in front of the first token, [B, H, ...].
        initial: those in which a document begins, [1, H, ...].
        mini_batch_size: K.
    """
    dtype = wide_dtype(k.dtype)
    inputs = (k, k, v, lr, token_idx, norm_weight, norm_bias)
    scan: Any = LEARNERS[kind].scan_class("torch")(inputs, mini_batch_size, dtype)
    running = scan.join(state)
    first = scan.join(tuple(w.expand_as(s) for w, s in zip(initial, state, strict=True)))
    found: list[list[Tensor]] = [[], [], []]
    for group in scan.groups:
        tokens = scan._tokens(group)
        _, inside = scan.advance_group(tokens, running)
        weights = inside[: len(running)]
        shifted = tuple(
            torch.cat([w[1:], last.unsqueeze(0)]) for w, last in zip(weights, running, strict=True)
        )
        at_first = tuple(w.expand(len(tokens.k), *w.shape) for w in first)
        for losses, at in zip(found, (at_first, weights, shifted), strict=True):
            losses.append(_losses(tokens, at))
    shape = k.shape[:3]
    return InnerLosses(
        *(from_minibatches(torch.cat(t), torch.Size((*shape, 1)), dtype)[..., 0] for t in found)
    )


def _losses(tokens: Tokens, weights: State) -> Tensor:
    """Losses [n, N, K, 1] at weights [n, N, ...], one for each mini-batch."""
    z = matmul(tokens.k, weights[0])
    for weight in weights[1:]:
        hidden = gelu(z)
        z = matmul(torch.cat([hidden, torch.ones_like(hidden[..., :1])], dim=-1), weight)
    error = torch.addcmul(tokens.target.miss, tokens.target.gamma, normalise(z)[0])
    return error.square().mean(-1, keepdim=True)
