"""A process group beside the job's, for what background threads of the ranks tell each other.

Collectives of one group have to begin in the same order on all ranks. A thread that works beside the steps
begins its own at any moment, so they need a group in which nothing else is ever sent.
"""

from typing import Protocol

import torch
import torch.distributed as dist

from tttscale.comm.agreement import texts_of_all_ranks
from tttscale.comm.mesh import TIMEOUT, Mesh


class Gathers(Protocol):
    """What can bring one text of every rank to all ranks: a mesh, or a group aside."""

    @property
    def rank(self) -> int:
        """This rank."""
        ...

    @property
    def world_size(self) -> int:
        """All ranks."""
        ...

    def gather_texts(self, text: str) -> list[str]:
        """One text of every rank, in rank order; every rank calls this."""
        ...


class Aside:
    """All ranks of a mesh, over gloo and CPU tensors; one thread of each rank uses it at a time."""

    def __init__(self, mesh: Mesh, purpose: str) -> None:
        """Create the group and connect it; every rank calls this, at the same place among collectives.

        Args:
            mesh: all ranks.
            purpose: a word for the group's description.

        Raises:
            PeerError: another rank died.
        """
        self._mesh = mesh
        self._group: dist.ProcessGroup | None = None
        if mesh.world_size > 1:
            with mesh.noticing("while all ranks connected"):
                group = dist.new_group(backend="gloo", timeout=TIMEOUT, group_desc=purpose)
                assert isinstance(group, dist.ProcessGroup)
                dist.all_reduce(torch.zeros(1), group=group)
            self._group = group

    @property
    def rank(self) -> int:
        """This rank."""
        return self._mesh.rank

    @property
    def world_size(self) -> int:
        """All ranks."""
        return self._mesh.world_size

    def gather_texts(self, text: str) -> list[str]:
        """One text of every rank, in rank order.

        Raises:
            PeerError: another rank died.
        """
        if self._group is None:
            return [text]
        with self._mesh.noticing("while all ranks compared notes"):
            return texts_of_all_ranks(text, self._group)
