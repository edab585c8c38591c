"""Causal convolutions that continue across the edges of a chunk."""

from typing import Any

import torch
from torch import Tensor, nn

from tttscale.kernels.causal_conv import causal_conv
from tttscale.model.chunk import Chunk, Edge


class CausalInput:
    """The input of causal convolutions: cut at document starts, each cut with its past in front, joined."""

    def __init__(self, x: Tensor, taps: int, chunk: Chunk, edge: Edge) -> None:
        """Exchange the tail with the neighbours.

        Args:
            x: [B, C, D].
            taps: kernel size k; the tail is the last k-1 inputs.
            chunk: where documents start.
            edge: the tail's way in and out.
        """
        reach = taps - 1
        received = edge.receive()
        tail = x.new_zeros(x.shape[0], reach, x.shape[2])
        if received is not None:
            tail = _arrive(received[0], edge).to(x.dtype)
        cuts, nothing = chunk.cuts(x.shape[1]), torch.zeros_like(tail)
        parts = []
        for (begin, _), part in zip(cuts, x.split([e - b for b, e in cuts], dim=1), strict=True):
            tail = chunk.renew(begin, tail, nothing)
            parts += [tail, part]
            tail = torch.cat([tail, part[:, -reach:]], dim=1)[:, -reach:]
        self._padded = _Leave.apply(torch.cat(parts, dim=1), reach, edge)
        self._sizes = [part.shape[1] for part in parts[1:]]

    def convolve(self, conv: nn.Conv1d) -> Tensor:
        """Apply a depthwise convolution's weights; [B, C, D]."""
        assert conv.bias is not None
        out = causal_conv(self._padded, conv.weight, conv.bias)
        if len(self._sizes) == 1:
            return out
        # Between two cuts lie outputs of inputs that belong to both.
        return torch.cat(out.split(self._sizes, dim=1)[::2], dim=1)


def _arrive(tail: Tensor, edge: Edge) -> Tensor:
    """Make a received tail a leaf whose gradient goes back as soon as it is there."""
    if not torch.is_grad_enabled():
        return tail
    leaf = tail.detach().requires_grad_()
    leaf.register_hook(lambda grad: edge.send_grad((grad,)))
    return leaf


class _Leave(torch.autograd.Function):
    """Identity that sends the tail on, and adds the tail's gradient from outside on the way back."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, reach: int, edge: Edge) -> Tensor:
        """Sends the last `reach` inputs."""
        ctx.reach, ctx.edge = reach, edge
        wide = torch.promote_types(padded.dtype, torch.float32)
        edge.send((padded[:, -reach:].to(wide, copy=True),))
        return padded.view_as(padded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Adds what the neighbour asks of them."""
        outside = ctx.edge.receive_grad()
        if outside is not None:
            grad = grad.clone()
            grad[:, -ctx.reach :] += outside[0].to(grad.dtype)
        return grad, None, None
