"""What no schedule of the same work beats: the work divided evenly, or the longest path through it."""

from collections.abc import Sequence

import numpy as np

from tttscale.observe.hand_overs import HandOvers
from tttscale.observe.span_table import BACKWARD, COMPUTE, FORWARD, RECOMPUTE, SpanTable
from tttscale.observe.work import Chain, chain, handed_on


def least_seconds(work_seconds: float, ramps: Sequence[float], path_seconds: float) -> float:
    """Bound the sweeps of a step from below.

    Every rank computes its share and is idle for its ramp at least, so the mean of both over the ranks is a
    bound however unevenly the work is divided. The longest ramp with the mean work is none: a rank that
    begins late may have less work than others.

    Args:
        work_seconds: compute of all ranks.
        ramps: for each rank, the least time for which it waits before its first advance, while the wave has
            not come to it, and is idle after its last one, while the wave is on its way back.
        path_seconds: of the longest path of work in which everything needs what comes before it.
    """
    return max((work_seconds + sum(ramps)) / len(ramps), path_seconds)


def traced_least_seconds(
    table: SpanTable, found: HandOvers, members: Sequence[int], work_seconds: float
) -> tuple[float, Chain]:
    """Bound the sweeps of a traced step from below.

    Args:
        table: of one step and one replica.
        found: of the same.
        members: indices of the replica's ranks.
        work_seconds: compute of all of them.

    Returns:
        The bound, and the longest serial chain.
    """
    longest = chain(table, found)
    path = longest.seconds + _besides(table, longest)
    return least_seconds(work_seconds, _ramps(table, found, members), path), longest


def _besides(table: SpanTable, longest: Chain) -> float:
    """Compute before, between and after the advances of a chain.

    The first chunk goes through the layers below before it and after it, and the last chunk through those
    above in between.
    """
    own = table.take(
        table.of(*COMPUTE)
        & (table.sequence == longest.sequence)
        & (table.layer >= 0)
        & (table.run != RECOMPUTE)
    )
    here = own.layer == longest.layer
    below = (own.layer < longest.layer) | (here & own.of("project"))
    above = (own.layer > longest.layer) | (here & own.of("readout", "finish"))
    last = own.chunk.max(initial=0)
    on_path = ((own.chunk == 0) & below) | ((own.chunk == last) & above)
    return float(own.seconds[on_path].sum())


def _ramps(table: SpanTable, found: HandOvers, members: Sequence[int]) -> list[float]:
    """For each rank: how long it waits for the first wave, and is idle after the last, at the least.

    Both are those of its first chunk in the lowest layer, compared with the chunk at which the wave begins.
    """
    placed = table.take((table.chunk >= 0) & (table.sequence >= 0))
    run, layer = placed.run, placed.layer
    sweeps = np.isin(run, (FORWARD, BACKWARD))
    shape = (
        2,
        int(placed.sequence.max(initial=0)) + 1,
        int(placed.chunk.max(initial=0)) + 1,
    )

    def sums(chosen: np.ndarray) -> np.ndarray:
        """Seconds by direction, sequence and chunk."""
        rows, values = placed.take(chosen), np.zeros(shape)
        np.add.at(values, ((rows.run == BACKWARD) * 1, rows.sequence, rows.chunk), rows.seconds)
        return values

    hops = sums(sweeps & placed.of("advance") & (layer == 0))
    outside = sums(sweeps & (placed.of("embed") | (placed.of("project") & (layer == 0))))
    crossed = np.zeros(shape, bool)
    messages, wires = handed_on(found)
    low = (messages.layer == 0) & (messages.boundary >= 0) & (messages.boundary < shape[2])
    at = messages.take(low)
    place = at.backward * 1, at.sequence, at.boundary
    np.add.at(hops, place, wires[low])
    crossed[place] = True
    own = placed.take(run == FORWARD)
    own = own.take(own.layer >= 0)
    ranks, rows = np.unique(own.rank, return_index=True)
    ramps = dict.fromkeys(members, 0.0)
    for rank, row in zip(ranks.tolist(), rows, strict=True):
        sequence, chunk = int(own.sequence[row]), int(own.chunk[row])
        for way in (0, 1):
            if chunk and crossed[way, sequence, chunk - 1]:
                ahead = outside[way, sequence, 0] - outside[way, sequence, chunk]
                ramps[rank] += max(0.0, float(hops[way, sequence, :chunk].sum() + ahead))
    return list(ramps.values())
