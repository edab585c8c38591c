"""Depthwise causal convolution of a padded input, with a backward that stores nothing but its input."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def causal_conv(padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y_t = bias + sum_j weight[:, 0, j] * padded_{t+j}: the last tap meets the current token.

    Args:
        padded: [B, k-1 + T, D], the k-1 inputs before the first token (or zeros) in front.
        weight: [D, 1, k].
        bias: [D].

    Returns:
        [B, T, D] in padded's dtype.
    """
    return _CausalConv.apply(padded, weight, bias)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B, c - 1 + T, D] -> [B, T, D], tap by tap."""
        ctx.save_for_backward(padded, weight)
        taps, length = _taps(weight, padded.dtype), padded.shape[1] - weight.shape[-1] + 1
        out = torch.addcmul(bias.to(padded.dtype), padded[:, :length], taps[0])
        for j in range(1, len(taps)):
            out.addcmul_(padded[:, j : j + length], taps[j])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of padded, weight and bias."""
        padded, weight = ctx.saved_tensors
        taps, length = _taps(weight, padded.dtype), d_out.shape[1]
        d_padded, d_weight = torch.zeros_like(padded), []
        for j, tap in enumerate(taps):
            window = slice(j, j + length)
            d_padded[:, window].addcmul_(d_out, tap)
            d_weight.append((d_out * padded[:, window]).sum((0, 1)))
        stacked = torch.stack(d_weight, dim=-1).unsqueeze(1).to(weight.dtype)
        return d_padded, stacked, d_out.sum((0, 1), dtype=weight.dtype)


def _taps(weight: Tensor, dtype: torch.dtype) -> list[Tensor]:
    return [tap.contiguous() for tap in weight[:, 0].to(dtype).unbind(-1)]
