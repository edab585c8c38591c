"""The input of causal convolutions, continued across the boundaries of a chunk."""

from typing import Any

import torch
from torch import Tensor, nn

from tttscale.kernels.precision import wide_dtype, widened
from tttscale.model.chunk import Chunk
from tttscale.model.device import to_device
from tttscale.model.ports import CarryPort


class CausalInput:
    """What causal convolutions read: the tokens cut where documents start, each cut with its past in front.

    `padded` is that, [B, k-1 + T or more, D]; `rows` the convolution's outputs that belong to tokens, None if
    all do (with several cuts, some outputs mix two documents and are dropped).
    """

    def __init__(self, x: Tensor, taps: int, chunk: Chunk, port: CarryPort) -> None:
        """Exchange the tail with the neighbours.

        Args:
            x: [B, C, D].
            taps: kernel size k; the tail is the last k-1 inputs.
            chunk: where documents start.
            port: where the tail enters and leaves the chunk.
        """
        reach = taps - 1
        received = port.recv_state()
        tail = x.new_zeros(x.shape[0], reach, x.shape[2])
        if received is not None:
            tail = _as_leaf(received[0], port).to(x.dtype)
        cuts, zeros = chunk.cuts(x.shape[1]), torch.zeros_like(tail)
        parts = []
        for (begin, _), part in zip(cuts, x.split([e - b for b, e in cuts], dim=1), strict=True):
            tail = chunk.renew(begin, tail, zeros)
            parts += [tail, part]
            tail = torch.cat([tail, part[:, -reach:]], dim=1)[:, -reach:]
        self.padded = _SendTail.apply(torch.cat(parts, dim=1), reach, port)
        self.rows = _rows(cuts, reach, x.device)


def window(x: Tensor, taps: int, port: CarryPort) -> Tensor:
    """What a causal convolution reads for one token: its last inputs and this one, without a graph.

    Args:
        x: [B, 1, D].
        taps: kernel size k.
        port: where the last k-1 inputs enter and leave.

    Returns:
        [B, k, D], fp32 or wider.
    """
    received = port.recv_state()
    tail = (
        x.new_zeros(len(x), taps - 1, x.shape[2]) if received is None else received[0].to(x.dtype)
    )
    inputs = widened(torch.cat([tail, x], dim=1))
    port.send_state((inputs[:, 1:].clone(),))
    return inputs


def convolved(inputs: Tensor, conv: nn.Conv1d) -> Tensor:
    """The output [B, D] of a depthwise convolution for one token; inputs [B, k, D] as `window` gives them."""
    assert conv.bias is not None
    taps = widened(conv.weight[:, 0]).t()
    return (inputs * taps).sum(1) + widened(conv.bias)


def _rows(cuts: list[tuple[int, int]], reach: int, device: torch.device) -> Tensor | None:
    if len(cuts) == 1:
        return None
    rows = [torch.arange(begin, end) + i * reach for i, (begin, end) in enumerate(cuts)]
    return to_device(torch.cat(rows), device)


def _as_leaf(tail: Tensor, port: CarryPort) -> Tensor:
    """Make a received tail a leaf whose gradient is sent as soon as it is there."""
    if not torch.is_grad_enabled():
        return tail
    leaf = tail.detach().requires_grad_()
    # A copy: the gradient is a view into that of the whole chunk, which would live as long.
    leaf.register_hook(lambda grad: port.send_grad((grad.clone(),)))
    return leaf


class _SendTail(torch.autograd.Function):
    """Identity that sends the tail, and adds the gradient received for it on the way back."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, reach: int, port: CarryPort) -> Tensor:
        """Send the last `reach` inputs."""
        ctx.reach, ctx.port = reach, port
        port.send_state((padded[:, -reach:].to(wide_dtype(padded.dtype), copy=True),))
        return padded.view_as(padded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Add what the chunk after found for them."""
        outside = ctx.port.recv_grad()
        if outside is not None:
            grad = grad.clone()
            grad[:, -ctx.reach :] += outside[0].to(grad.dtype)
        return grad, None, None
