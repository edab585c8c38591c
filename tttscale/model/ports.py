"""Ports: where one part of a layer's carry enters and leaves a chunk.

A layer never sees ranks or process groups. It meets the chunks before and after through four verbs:
recv_state and send_state in the forward, recv_grad and send_grad in the backward. Without neighbours
(`NULL_PORTS`) a chunk is a whole sequence.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Part = tuple[Tensor, ...]
"""The tensors of one part of a carry: (W1, b1[, W2, b2]) or (tail,)."""

Shapes = tuple[tuple[int, ...], ...]


class Carried(NamedTuple):
    """What one part of a carry holds after some tokens of a sequence."""

    shapes: Shapes
    """One for each tensor; the first dim is the batch B."""
    dtype: torch.dtype | None = None
    """None: fp32, or fp64 in a model in fp64, as states should be."""
    names: tuple[str, ...] = ()
    """What each tensor is called in messages, such as ("W1", "b1"); (): they have numbers."""
    has_heads: bool = False
    """The second dim of every tensor counts the heads, so that messages and figures can name one."""


class CarryPort(Protocol):
    """Where one part of the carry enters and leaves a chunk."""

    @property
    def peer_waits_for_state(self) -> bool:
        """Another rank waits for what `send_state` sends."""
        ...

    @property
    def peer_waits_for_grad(self) -> bool:
        """A gradient comes from another rank, or goes to one."""
        ...

    def recv_state(self) -> Part | None:
        """The part that the chunk before has sent; None where a sequence begins."""
        ...

    def send_state(self, part: Part) -> None:
        """Hand the part to the chunk after."""
        ...

    def recv_grad(self) -> Part | None:
        """The gradient of what was sent, from the chunk after; None where a sequence ends."""
        ...

    def send_grad(self, grad: Part) -> None:
        """Hand the gradient of what was received to the chunk before."""
        ...


class NullPort:
    """No neighbours: a sequence begins and ends here."""

    peer_waits_for_state = False
    peer_waits_for_grad = False

    def recv_state(self) -> Part | None:
        """A sequence begins here."""
        return None

    def send_state(self, part: Part) -> None:
        """No chunk follows."""

    def recv_grad(self) -> Part | None:
        """No chunk follows."""
        return None

    def send_grad(self, grad: Part) -> None:
        """No chunk came before."""


class LayerPorts(Protocol):
    """The ports of one layer for one chunk, by part."""

    def __getitem__(self, part: str, /) -> CarryPort:
        """The port of a part that the layer's `carry` declares."""
        ...


class NullPorts:
    """A port without neighbours for every part."""

    def __getitem__(self, part: str, /) -> CarryPort:
        """The same for all."""
        return _NULL_PORT


_NULL_PORT = NullPort()
NULL_PORTS = NullPorts()
