"""What a block knows of the chunk it works on: where documents begin, and its two edges.

A block never sees ranks or process groups. What lies left and right of a chunk reaches it through
`Edge`s: one for each part of the carry. Without neighbours (`WHOLE`) a chunk is a whole sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

Part = tuple[Tensor, ...]
"""One part of a carry: (W1, b1[, W2, b2]) or (tail,)."""

PARTS = ("pre_conv", "qk_conv", "state")
"""The parts of one layer's carry, in the order in which a block meets them."""


class Edge(Protocol):
    """How one part of the carry crosses a chunk's edges."""

    @property
    def state_awaited(self) -> bool:
        """Somebody else waits for what `send` sends."""
        ...

    @property
    def grad_awaited(self) -> bool:
        """A gradient comes from, or goes to, somebody else."""
        ...

    def receive(self) -> Part | None:
        """What the chunk before has left; None where a sequence begins."""
        ...

    def send(self, part: Part) -> None:
        """Leave this for the chunk after."""
        ...

    def receive_grad(self) -> Part | None:
        """The gradient of what was sent; None where a sequence ends."""
        ...

    def send_grad(self, grad: Part) -> None:
        """The gradient of what was received."""
        ...


class OpenEdge:
    """No neighbours: a sequence begins and ends here."""

    state_awaited = False
    grad_awaited = False

    def receive(self) -> Part | None:
        """Nothing comes in."""
        return None

    def send(self, part: Part) -> None:
        """Nobody follows."""

    def receive_grad(self) -> Part | None:
        """Nobody follows."""
        return None

    def send_grad(self, grad: Part) -> None:
        """Nobody is waiting."""


class LayerEdges(Protocol):
    """The edges of one chunk at one layer, by part."""

    def __getitem__(self, part: str, /) -> Edge:
        """Edge of one of `PARTS`."""
        ...


NO_NEIGHBOURS: dict[str, Edge] = {part: OpenEdge() for part in PARTS}


@dataclass(frozen=True)
class Span:
    """A run of tokens of the chunk without a document start inside."""

    begin: int
    end: int
    fresh: Tensor | None
    """bool [B]: rows in which a document starts at `begin`; None if in none."""


@dataclass(frozen=True)
class Chunk:
    """Document starts and padding of one chunk."""

    starts: dict[int, Tensor] = field(default_factory=dict)
    """Position (a multiple of the mini-batch) -> bool [B], the rows in which a document starts."""
    padded: Tensor | None = None
    """bool [B, C]: positions the loader filled; they take no inner gradient step."""

    def spans(self, length: int) -> Iterator[Span]:
        """Cut `length` tokens at the document starts."""
        cuts = [*sorted({0, *self.starts}), length]
        for begin, end in pairwise(cuts):
            yield Span(begin, end, self.starts.get(begin))


WHOLE = Chunk()


def renew(fresh: Tensor | None, old: Tensor, new: Tensor) -> Tensor:
    """`new` in the rows where a document starts, else `old`; both [B, ...]."""
    if fresh is None:
        return old
    return torch.where(fresh.view(-1, *[1] * (old.dim() - 1)), new, old)
