"""What no schedule beats: the work divided evenly, or the serial chain of one layer; each with its ramp."""

from itertools import accumulate

from tttscale.plan.costs import Costs
from tttscale.plan.message_bytes import MessageBytes
from tttscale.scan.schedule import Schedule
from tttscale.scan.timeline import Activity, Run

_IN_A_LAYER = (Activity.PROJECT, Activity.ADVANCE, Activity.READOUT, Activity.FINISH)


def possible(
    schedule: Schedule, sizes: MessageBytes, costs: Costs, ranks_per_host: int, work_seconds: float
) -> tuple[float, float]:
    """Bounds of one step's sweeps.

    Args:
        schedule: of the sweeps.
        sizes: of the messages.
        costs: of every activity.
        ranks_per_host: neighbouring ranks that share a host.
        work_seconds: compute of all ranks.

    Returns:
        The serial chain: in the slowest layer, all chunks of one sequence advance one after the other and
        hand over, forward and backward. And the least time: work that is divided evenly waits until the wave
        has reached the last rank, and at the end until it is back; if the chain decides, one chunk goes
        through all other layers before it and back after it.
    """
    layout = schedule.layout
    chains = [
        _chain(schedule, sizes, costs, ranks_per_host, layer) for layer in _unlike(schedule, costs)
    ]
    chain, hop = max(chains)
    waves = min(layout.sequences, layout.ranks) if layout.kind == "striped" else 1
    hops = -(-min(layout.ranks, layout.chunks * waves) // waves) - 1
    begin, end = layout.bounds(0)
    passing = sum(
        costs.seconds(run, activity, end - begin, layer)
        for run in (Run.FORWARD, Run.BACKWARD)
        for layer in range(schedule.layers)
        for activity in _IN_A_LAYER
    )
    even = work_seconds / layout.ranks + hops * hop
    return chain, max(even, chain + passing - hop)


def _unlike(schedule: Schedule, costs: Costs) -> list[int]:
    """A layer of each kind."""
    return list({(costs.kinds[i], schedule.parts[i]): i for i in range(schedule.layers)}.values())


def _chain(
    schedule: Schedule, sizes: MessageBytes, costs: Costs, ranks_per_host: int, layer: int
) -> tuple[float, float]:
    """Seconds of one layer's chain through a sequence and back, and of its first chunk alone."""
    layout = schedule.layout
    last = list(accumulate(map(len, schedule.parts)))[layer] - 1
    total = first = 0.0
    known: dict[tuple[int, int, bool | None], float] = {}
    for chunk in range(layout.chunks):
        begin, end = layout.bounds(chunk)
        here, right = layout.owner(0, chunk), layout.neighbour(0, chunk, +1)
        crosses = right not in (None, here)
        same = (
            here // ranks_per_host == right // ranks_per_host
            if crosses and right is not None
            else None
        )
        key = end - begin, chunk if sizes.differ else 0, same
        if key not in known:
            known[key] = sum(
                costs.seconds(run, Activity.ADVANCE, end - begin, layer)
                for run in (Run.FORWARD, Run.BACKWARD)
            )
            if same is not None and schedule.parts[layer]:
                wire = costs.wire_seconds(sizes.at(key[1])[last], same)
                held = sum(
                    costs.seconds(run, Activity.SEND, 0, layer)
                    for run in (Run.FORWARD, Run.BACKWARD)
                )
                known[key] += 2 * wire + held
        total += known[key]
        first = first or known[key]
    return total, first
