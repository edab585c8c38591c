"""What a layer knows of the chunk it works on: where it lies, where documents start, what is padding."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tttscale.model.packing import Packing


@dataclass(frozen=True)
class Chunk:
    """Place, document starts and padding of one chunk."""

    starts: tuple[tuple[int, ...], ...] = ()
    """For each row the positions (multiples of the mini-batch) in which a document starts; () for none."""
    padded: Tensor | None = None
    """bool [B, C]: positions the loader filled; they take no inner gradient step."""
    begin: int = 0
    """Position of the chunk's first token in its sequence."""
    _packings: dict[Any, Packing] = field(default_factory=dict, init=False, compare=False)
    """Made at the first layer, used by all."""

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
        # At the chunk's own beginning `old` stays in the graph: the chunk before waits for its gradient.
        mask = torch.zeros(len(fresh), dtype=torch.bool, device=old.device)
        for row in (row for row, is_fresh in enumerate(fresh) if is_fresh):
            mask[row] = True
        return torch.where(mask.view(-1, *[1] * (old.dim() - 1)), new, old)


WHOLE = Chunk()
