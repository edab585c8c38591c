"""Ranks that have done their share wait until the first one has ended what it does alone, however long.

They sleep meanwhile: a launcher such as srun may end a job soon after the first of its processes has ended.
"""

from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from tttscale.comm.mesh import Mesh
from tttscale.errors import PeerError

_FOREVER = timedelta(days=365)


class Dismissal:
    """One word of rank 0 to all others, for which no deadline holds."""

    def __init__(self, mesh: Mesh) -> None:
        """Create a group for it, and connect it; every rank calls this, at the same place among collectives.

        Raises:
            PeerError: another rank died.
        """
        self._mesh = mesh
        self._group: dist.ProcessGroup | None = None
        if mesh.world_size > 1:
            with mesh.noticing("while all ranks connected"):
                group = dist.new_group(backend="gloo", timeout=_FOREVER, group_desc="dismissal")
                assert isinstance(group, dist.ProcessGroup)
                dist.all_reduce(torch.zeros(1), group=group)
            self._group = group

    def wait(self) -> None:
        """Wait on any other rank than the first for its word.

        Raises:
            PeerError: rank 0 has died.
        """
        assert self._mesh.rank > 0
        self._tell()

    def dismiss(self) -> None:
        """Let the others go, on rank 0. One that has gone already is not missed."""
        assert self._mesh.rank == 0
        with suppress(PeerError):
            self._tell()

    def _tell(self) -> None:
        if self._group is not None:
            with self._mesh.noticing("that had work to do alone"):
                dist.broadcast(torch.zeros(1), 0, group=self._group)
