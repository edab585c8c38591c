"""How far the ranks' clocks are apart."""

import time

import torch
import torch.distributed as dist

from tttscale.comm.mesh import Mesh

_ROUNDS = 5


def clock_offsets(mesh: Mesh) -> list[float]:
    """Compare every rank's clock with rank 0's, one after the other; all ranks call this.

    A rank says its time halfway through a round trip; the shortest of a few round trips counts.

    Returns:
        On rank 0 the seconds by which each rank's clock is ahead, in rank order; elsewhere nothing.
    """
    now = torch.zeros(1, dtype=torch.float64)
    with mesh.noticing("while clocks were compared"):
        if mesh.rank > 0:
            for _ in range(_ROUNDS):
                dist.recv(now, 0)
                dist.send(torch.tensor([time.time()], dtype=torch.float64), 0)
            return []
        offsets = [0.0]
        for rank in range(1, mesh.world_size):
            trips = []
            for _ in range(_ROUNDS):
                begin = time.time()
                dist.send(now, rank)
                dist.recv(now, rank)
                end = time.time()
                trips.append((end - begin, now.item() - (begin + end) / 2))
            offsets.append(min(trips)[1])
    return offsets
