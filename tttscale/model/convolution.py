"""The input of causal convolutions, continued across the edges of a chunk."""

from typing import Any

import torch
from torch import Tensor

from tttscale.kernels.precision import wide_dtype
from tttscale.model.chunk import Chunk, Edge
from tttscale.model.device import to_device


class CausalInput:
    """What causal convolutions read: cut at document starts, each cut with its past in front, joined.

    `padded` is that, [B, k-1 + T or more, D]; `rows` the convolution's outputs that belong to tokens, None if
    all do: between two cuts lie outputs of inputs that belong to both.
    """

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
        self.padded = _Leave.apply(torch.cat(parts, dim=1), reach, edge)
        self.rows = _rows(cuts, reach, x.device)


def _rows(cuts: list[tuple[int, int]], reach: int, device: torch.device) -> Tensor | None:
    if len(cuts) == 1:
        return None
    rows = [torch.arange(begin, end) + i * reach for i, (begin, end) in enumerate(cuts)]
    return to_device(torch.cat(rows), device)


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
        edge.send((padded[:, -reach:].to(wide_dtype(padded.dtype), copy=True),))
        return padded.view_as(padded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Adds what the neighbour asks of them."""
        outside = ctx.edge.receive_grad()
        if outside is not None:
            grad = grad.clone()
            grad[:, -ctx.reach :] += outside[0].to(grad.dtype)
        return grad, None, None
