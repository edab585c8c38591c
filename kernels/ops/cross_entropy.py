"""Sum of token losses that holds the logits of some tokens at a time, however long the chunk."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tttscale.kernels.ops.compiled_op import compiled
from tttscale.kernels.ops.cpu_product import laid_out_for_gradients, product
from tttscale.kernels.ops.linear import cached_cast, matmul_fp32
from tttscale.kernels.precision import wide_dtype, widened, without_autocast

IGNORED = -100
"""Label of a position that has no loss."""
_SLICE_TOKENS = 512
_COMPILED_SLICE_TOKENS = 2048
"""More at once, as nothing but logits and their gradient is held, and each slice adds to all of d_weight."""


class CrossEntropy:
    """Negative log-likelihood of labels under softmax(x weight^T), a slice of tokens at a time.

    The gradients are formed while a slice's logits are there, so that the backward only scales them.
    """

    def __init__(self, slice_tokens: int = _SLICE_TOKENS, compile: bool = False) -> None:
        self.slice_tokens = slice_tokens
        self.losses = compiled(_losses) if compile else _losses
        self.losses_and_gradient = (
            compiled(_losses_and_gradient) if compile else _losses_and_gradient_in_place
        )

    def compiled(self) -> "CrossEntropy":
        """The same with a slice's logits taken through torch.compile."""
        return CrossEntropy(_COMPILED_SLICE_TOKENS, compile=True)

    def __call__(self, x: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The losses' sum.

        Args:
            x: [N, D] in the compute dtype.
            weight: [V, D].
            labels: int64 [N]; -100 marks positions without a loss.

        Returns:
            The differentiable sum (fp32 or wider) and the losses [N] without gradient.
        """
        # Inside a Function grad mode is off, and needs_input_grad does not know of it.
        return _CrossEntropySum.apply(self, x, weight, labels, torch.is_grad_enabled())


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, n, V] and [B, n] -> [B, n] in fp32 or wider; 0 where there is no label."""
    return _with_log_norm(logits, labels)[0]


def _losses_and_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the gradient of their sum at the logits, in the logits' dtype."""
    losses, log_norm = _with_log_norm(logits, labels)
    chosen = torch.arange(logits.shape[-1], device=labels.device) == labels.unsqueeze(-1)
    grad = torch.exp(logits.to(log_norm.dtype) - log_norm) - chosen.to(log_norm.dtype)
    return losses, (grad * (labels != IGNORED).unsqueeze(-1)).to(logits.dtype)


def _losses_and_gradient_in_place(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same call by call: one exponential, in the logits' memory. Losses have the bits of `_losses`."""
    wide, chosen = widened(logits), labels.clamp(min=0).unsqueeze(-1)
    top, of_label = wide.amax(-1, keepdim=True), wide.gather(-1, chosen)
    grad = wide.sub_(top).exp_()
    norm = grad.sum(-1, keepdim=True)
    losses = (norm.log().add_(top) - of_label).squeeze(-1) * (labels != IGNORED)
    grad.div_(norm).scatter_add_(-1, chosen, norm.new_full((), -1.0).expand_as(of_label))
    if logits.device.type != "cpu" or (labels == IGNORED).any():  # a GPU is not asked: that waits
        grad.mul_((labels != IGNORED).unsqueeze(-1))
    return losses, grad.to(logits.dtype)


def _with_log_norm(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    wide = widened(logits)
    log_norm = torch.logsumexp(wide, dim=-1, keepdim=True)
    of_label = wide.gather(-1, labels.clamp(min=0).unsqueeze(-1))
    return (log_norm - of_label).squeeze(-1) * (labels != IGNORED), log_norm


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, how: CrossEntropy, x: Tensor, weight: Tensor, labels: Tensor, with_grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Losses, and the gradients for a sum of weight 1 where they will be needed."""
        wide = wide_dtype(x.dtype)
        matrix, x = cached_cast(weight, x.dtype), x.detach()
        wants_x, wants_weight = (with_grad and needed for needed in ctx.needs_input_grad[1:3])
        losses = x.new_zeros(x.shape[0], dtype=wide)
        d_x = torch.empty_like(x) if wants_x else None
        back = laid_out_for_gradients(matrix) if wants_x else matrix
        d_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        for begin in range(0, x.shape[0], how.slice_tokens):
            part = slice(begin, begin + how.slice_tokens)
            logits, wanted = product(x[part], matrix.t()).unsqueeze(0), labels[part].unsqueeze(0)
            if d_x is None and d_weight is None:
                losses[part] = how.losses(logits, wanted)[0]
                continue
            found, grad = how.losses_and_gradient(logits, wanted)
            losses[part] = found[0]
            if d_x is not None:
                d_x[part] = product(grad[0], back)
            if d_weight is not None:
                d_weight += matmul_fp32(grad[0].t(), x[part])
        ctx.save_for_backward(d_x, d_weight)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients times that of the sum."""
        d_x, d_weight = ctx.saved_tensors
        return (
            None,
            None if d_x is None else (widened(d_x) * d_sum).to(d_x.dtype),
            None if d_weight is None else d_weight.mul_(d_sum),
            None,
            None,
        )
