"""Sums over all ranks that run while a rank computes, one after the other in the same order on all ranks.

They have a process group of their own, so that no other collective waits for one that another rank has not
begun. On CPUs gloo's threads sum. On GPUs a kernel of NCCL waits for the other ranks, and these may wait for
what this rank has still to launch; if the host had to wait for its device meanwhile, all would wait for ever.
Therefore a rank hands its sums to NCCL when it has launched all that other ranks can wait for.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tttscale.comm.mesh import TIMEOUT, Mesh
from tttscale.supervise.page import waiting


@dataclass
class _Asked:
    """A sum that NCCL does not have yet."""

    values: Tensor
    owner: int | None
    computed: Any
    """A CUDA event: the values are there."""


class BackgroundSums:
    """Begins sums in the middle of a sweep and waits for them after it."""

    def __init__(self, mesh: Mesh, device: torch.device) -> None:
        """Create the group and connect it; every rank calls this."""
        self._mesh, self._device = mesh, device
        self._works: list[dist.Work] = []
        self._asked: list[_Asked] = []
        backend = "gloo" if device.type == "cpu" else "nccl"
        with mesh.noticing("while all ranks connected"), waiting():
            group = dist.new_group(backend=backend, timeout=TIMEOUT, group_desc="gradients")
            assert isinstance(group, dist.ProcessGroup)
            self._group = group
            dist.all_reduce(torch.zeros(1, device=device), group=group)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, values: Tensor, owner: int | None) -> None:
        """Sum a contiguous tensor over all ranks, in place; the caller leaves it alone until `wait` returns.

        Args:
            values: as long on all ranks.
            owner: the rank that gets the sum, and the others' values become undefined; None: all ranks.
        """
        if self._stream is None:
            self._begin(values, owner)
        else:
            self._asked.append(_Asked(values, owner, torch.cuda.current_stream().record_event()))

    def all_begun(self) -> None:
        """This rank has launched all that others need to begin their sums, and will begin no more."""
        for asked in self._asked:
            assert self._stream is not None
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(asked.computed)
                self._begin(asked.values, asked.owner)
        self._asked.clear()

    def wait(self) -> None:
        """Wait for all sums: on a GPU the current stream waits.

        Raises:
            PeerError: another rank died.
        """
        with self._mesh.noticing("in the reduction of gradients"):
            works, self._works = self._works, []
            for work in works:
                work.wait()

    def _begin(self, values: Tensor, owner: int | None) -> None:
        with self._mesh.noticing("in the reduction of gradients"):
            if owner is None:
                work = dist.all_reduce(values, group=self._group, async_op=True)
            else:
                work = dist.reduce(values, owner, group=self._group, async_op=True)
        assert work is not None
        self._works.append(work)
