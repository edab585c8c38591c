"""What a block knows of the chunk it works on: where documents begin, and its two edges.

A block never sees ranks or process groups. What lies left and right of a chunk reaches it through
`Edge`s: one for each part of the carry. Without neighbours (`WHOLE`) a chunk is a whole sequence.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from tttscale.model.documents import Packing

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
class Chunk:
    """Document starts and padding of one chunk."""

    starts: tuple[tuple[int, ...], ...] = ()
    """For each row the positions (multiples of the mini-batch) in which a document starts; () for none."""
    padded: Tensor | None = None
    """bool [B, C]: positions the loader filled; they take no inner gradient step."""
    _packings: dict[Any, Packing] = field(default_factory=dict, init=False, compare=False)
    """Made at the first layer, for all."""

    def packing(self, x: Tensor, size: int, state_bytes: int) -> Packing:
        """How tokens [B, C, ...] are scanned, documents side by side; see `Packing`."""
        starts, length = self.starts or ((),) * len(x), x.shape[1]
        if not any(starts):
            return Packing(starts, length, size, state_bytes, x.device)
        key = length, size, state_bytes, x.device
        if key not in self._packings:
            self._packings[key] = Packing(starts, length, size, state_bytes, x.device)
        return self._packings[key]

    def cuts(self, length: int) -> list[tuple[int, int]]:
        """`length` tokens cut wherever a document starts in any row."""
        return list(pairwise([*sorted({0}.union(*self.starts)), length]))

    def renew(self, at: int, old: Tensor, new: Tensor) -> Tensor:
        """`new` in the rows where a document starts at this position, else `old`; both [B, ...]."""
        fresh = [at in row for row in self.starts]
        if not any(fresh):
            return old
        if all(fresh) and at > 0:
            return new
        # At the chunk's own beginning `old` stays in the graph: somebody waits for its gradient, if zero.
        mask = torch.zeros(len(fresh), dtype=torch.bool, device=old.device)
        for row in (row for row, is_fresh in enumerate(fresh) if is_fresh):
            mask[row] = True
        return torch.where(mask.view(-1, *[1] * (old.dim() - 1)), new, old)


WHOLE = Chunk()
