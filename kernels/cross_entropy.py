"""Sum of token losses that holds the logits of 1,024 tokens at a time, however long the chunk."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
"""Label of a position that has no loss."""


def cross_entropy_sum(
    x: Tensor, weight: Tensor, labels: Tensor, slice_tokens: int = 1024
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of labels under softmax(x weight^T), a slice of tokens at a time.

    The gradients are formed while a slice's logits are there, so that the backward only scales them.

    Args:
        x: [N, D] in the compute dtype.
        weight: [V, D].
        labels: int64 [N]; -100 marks positions without a loss.
        slice_tokens: tokens whose logits exist at once.

    Returns:
        The differentiable sum (fp32 or wider) and the losses [N] without gradient.
    """
    # Inside a Function grad mode is off, and needs_input_grad does not know of it.
    return _CrossEntropySum.apply(x, weight, labels, slice_tokens, torch.is_grad_enabled())


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, slice_tokens: int, with_grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Losses, and the gradients for a sum of weight 1 where they will be needed."""
        wide = torch.promote_types(x.dtype, torch.float32)
        matrix = weight.to(x.dtype)
        wants_x, wants_weight = (with_grad and needed for needed in ctx.needs_input_grad[:2])
        losses = x.new_zeros(x.shape[0], dtype=wide)
        d_x = torch.empty_like(x) if wants_x else None
        d_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        for begin in range(0, x.shape[0], slice_tokens):
            part = slice(begin, begin + slice_tokens)
            logits = (x[part] @ matrix.t()).to(wide)
            valid = labels[part] != IGNORED
            target = labels[part].clamp(min=0).unsqueeze(-1)
            log_norm = torch.logsumexp(logits, dim=-1, keepdim=True)
            losses[part] = (log_norm - logits.gather(-1, target)).squeeze(-1) * valid
            if d_x is None and d_weight is None:
                continue
            grad = torch.exp(logits - log_norm).mul_(valid.unsqueeze(-1))
            grad.scatter_add_(-1, target, -valid.unsqueeze(-1).to(wide))
            grad = grad.to(x.dtype)
            if d_x is not None:
                d_x[part] = grad @ matrix
            if d_weight is not None:
                d_weight += grad.t() @ x[part]
        ctx.grads = d_x, d_weight
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients times that of the sum."""
        d_x, d_weight = ctx.grads
        ctx.grads = None
        return (
            None if d_x is None else d_x * d_sum.to(d_x.dtype),
            None if d_weight is None else d_weight * d_sum,
            None,
            None,
            None,
        )
