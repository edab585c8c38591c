"""A step whose numbers cannot be used: what is looked at in every step, and the error on all ranks.

Losses and carries are agreed on in one sum over the ranks before the update, and the gradient's norm in the
update. Where it began is found by `origin` then.
"""

from typing import Any

import torch
from torch import Tensor

from tttscale.comm.mesh import Mesh
from tttscale.errors import NumericsError
from tttscale.scan.carry_norms import CarryNorms, InnerNorm
from tttscale.scan.losses import Losses

CARRY = "a carry, or the gradient of one, is not finite, though the loss is"


class StepError(NumericsError):
    """The numbers of a step cannot be used; its update is left out and parameters are as before it."""

    def __init__(self, step: int, what: str, origin: str = "") -> None:
        """Say what was found, and where it began if that is known already.

        Args:
            step: that failed. The last weights with a finite loss are those of two steps before.
            what: was found.
            origin: a sentence without its full stop; empty: it is to be looked for.
        """
        where = f" {origin}." if origin else ""
        message = f"step {step}: {what}.{where} Parameters are as before this step."
        super().__init__(message, step, sound=step - 2)
        self.what, self.origin = what, origin


class CarryRows:
    """What every rank says of its carries in a step, in one row of numbers each."""

    COLUMNS = 1 + len(InnerNorm._fields)

    def __init__(self, norms: CarryNorms, mesh: Mesh, limit: float | None) -> None:
        """Hold what this rank has found; the others' rows come with `load`.

        Args:
            norms: of this rank in a step.
            mesh: all ranks.
            limit: `train.inner_norm_limit`.
        """
        self._norms, self._mesh, self._limit = norms, mesh, limit
        self._rows = torch.zeros(mesh.world_size, self.COLUMNS, dtype=torch.float64)

    def flat(self) -> Tensor:
        """Return own numbers at this rank's place, zeros elsewhere, to be summed: fp64 [world * columns]."""
        finite = self._norms.finite()
        largest = self._norms.largest() if finite else InnerNorm(0.0)
        self._rows[self._mesh.rank] = torch.tensor(
            [float(not finite), *largest], dtype=torch.float64
        )
        return self._rows.flatten()

    def load(self, flat: Tensor) -> None:
        """Take back what `flat` gave, summed over ranks."""
        self._rows = flat.view(self._mesh.world_size, self.COLUMNS)

    def check(self, step: int) -> None:
        """Raise on all ranks if a carry is not finite, or an inner weight's norm is above the limit.

        Raises:
            StepError: it is.
        """
        if self._rows[:, 0].any():
            raise StepError(step, CARRY)
        limit = self._limit
        if limit is not None and bool((self._rows[:, 1] > limit).any()):
            what = f"an inner weight's norm is {self._first_above(limit)}"
            raise StepError(step, what, "That is the first in scan order")

    def figures(self) -> dict[str, Any]:
        """Return the largest norm of an inner weight and its place for metrics.jsonl; empty without heads."""
        largest = InnerNorm(*self._rows[int(self._rows[:, 1].argmax()), 1:].tolist())
        if largest.chunk < 0:
            return {}
        places = {name: int(getattr(largest, name)) for name in ("layer", "head", "chunk")}
        return {"inner_norm": largest.norm} | {f"inner_norm_{k}": v for k, v in places.items()}

    def _first_above(self, limit: float) -> str:
        """Return the first norm above the limit in scan order, and its place. Collective."""
        first = self._norms.first_above(limit)
        rows = self._mesh.gather([float(first is not None), *(first or InnerNorm(0.0))]).tolist()
        ranks = [rank for rank, row in enumerate(rows) if row[0]]
        size = self._mesh.sequence_size
        rank = min(ranks, key=lambda r: (r // size, rows[r][2:]))
        norm, *place = rows[rank][1:]
        found = InnerNorm(norm, *map(int, place))
        return (
            f"{norm:.4g}, above train.inner_norm_limit = {limit:g}, in layer {found.layer}, "
            f"head {found.head}, after chunk {found.chunk} of sequence {found.sequence} "
            f"(replica {rank // size}, rank {rank}): {self._norms.weight(found)}"
        )


def check_losses(losses: Losses, step: int, replica: int) -> None:
    """Raise if a replica's loss is not finite.

    Raises:
        StepError: it is not.
    """
    bad = (~losses.sums.isfinite()).nonzero()
    if len(bad):
        group, chunk, row = min(bad.tolist(), key=lambda place: (place[0], place[2], place[1]))
        sequence = group * losses.sums.shape[2] + row
        raise StepError(
            step,
            f"the loss of sequence {sequence} (replica {replica}) is not finite from chunk {chunk} on",
        )
