"""How far the ranks' clocks are apart."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist

from tttscale.comm.mesh import Mesh

_ROUNDS = 5


class ClockOffset(NamedTuple):
    """How a rank's clock compares with rank 0's."""

    seconds: float
    """By which it is ahead."""
    error_seconds: float
    """By which that may be wrong: half of the round trip."""


def clock_offsets(
    mesh: Mesh, clock: Callable[[], float] = time.time, rounds: int = _ROUNDS
) -> list[ClockOffset]:
    """Compare every rank's clock with rank 0's, one after the other; all ranks call this.

    A rank says its time halfway through a round trip; the shortest of a few round trips counts.

    Args:
        mesh: all ranks.
        clock: `time.time` for calendars, `time.perf_counter` for traces.
        rounds: round trips with each rank.

    Returns:
        On rank 0 one for each rank, in rank order; elsewhere nothing.
    """
    now = torch.zeros(1, dtype=torch.float64)
    with mesh.noticing("while clocks were compared"):
        if mesh.rank > 0:
            for _ in range(rounds):
                dist.recv(now, 0)
                dist.send(torch.tensor([clock()], dtype=torch.float64), 0)
            return []
        offsets = [ClockOffset(0.0, 0.0)]
        for rank in range(1, mesh.world_size):
            trips = []
            for _ in range(rounds):
                begin = clock()
                dist.send(now, rank)
                dist.recv(now, rank)
                end = clock()
                trips.append((end - begin, now.item() - (begin + end) / 2))
            shortest, ahead = min(trips)
            offsets.append(ClockOffset(ahead, shortest / 2))
    return offsets
