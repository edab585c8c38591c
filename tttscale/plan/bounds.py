"""What no schedule beats: the work divided evenly, or the serial chain of one layer; each with its ramp."""

from itertools import accumulate

from tttscale.observe.least_time import least_seconds
from tttscale.plan.costs import Costs
from tttscale.plan.message_bytes import MessageBytes
from tttscale.plan.program import is_alone
from tttscale.scan.schedule import Schedule
from tttscale.scan.timeline import Activity, Run

_BOTH = (Run.FORWARD, Run.BACKWARD)
_AFTER_ADVANCE = (Activity.READOUT, Activity.FINISH)
_IN_A_LAYER = (Activity.PROJECT, Activity.ADVANCE, *_AFTER_ADVANCE)


def possible(
    schedule: Schedule, sizes: MessageBytes, costs: Costs, ranks_per_host: int, work_seconds: float
) -> tuple[float, float]:
    """Bounds of one step's sweeps; the simulated sweeps are never shorter than either.

    Args:
        schedule: of the sweeps.
        sizes: of the messages.
        costs: of every activity.
        ranks_per_host: neighbouring ranks that share a host.
        work_seconds: compute of all ranks.

    Returns:
        The serial chain: in the slowest layer, all chunks of one sequence advance one after the other and
        hand over, forward and backward. And the least time: work that is divided evenly waits until the wave
        has reached each rank, and at the end until it is back; if the chain decides, the first chunk goes
        through the layers below before it and after it, and the last chunk through those above in between.
    """
    bounds = _Bounds(schedule, sizes, costs, ranks_per_host)
    chains: dict[tuple[str, tuple[str, ...]], float] = {}
    for layer, kind in enumerate(zip(costs.kinds, schedule.parts, strict=True)):
        if kind not in chains:
            chains[kind] = bounds.chain(layer)
    paths = bounds.paths([chains[kind] for kind in zip(costs.kinds, schedule.parts, strict=True)])
    return max(chains.values()), least_seconds(work_seconds, bounds.ramps(), max(paths))


class _Bounds:
    """Sums of costs along paths through a schedule."""

    def __init__(
        self, schedule: Schedule, sizes: MessageBytes, costs: Costs, ranks_per_host: int
    ) -> None:
        self.schedule, self.sizes, self.costs = schedule, sizes, costs
        self.layout, self.ranks_per_host = schedule.layout, ranks_per_host
        self.last_slots = [count - 1 for count in accumulate(map(len, schedule.parts))]
        self._wires: dict[tuple[Run, int, int, bool], float] = {}

    def chain(self, layer: int) -> float:
        """Seconds of one layer's chain through a sequence and back."""
        if not self.schedule.parts[layer]:  # chunks do not depend on each other
            return sum(self.advance(run, 0, 0, layer) for run in _BOTH)
        return sum(
            self.advance(run, 0, chunk, layer) + self.wire(run, 0, chunk, layer)
            for chunk in range(self.layout.chunks)
            for run in _BOTH
        )

    def paths(self, chains: list[float]) -> list[float]:
        """For each layer: its chain, and before, between and after it the other layers of one chunk."""
        last = self.layout.chunks - 1
        below = [self.layer(0, layer, _IN_A_LAYER) for layer in range(len(chains))]
        above = [self.layer(last, layer, _IN_A_LAYER) for layer in range(len(chains))]
        found, before, after = [], 0.0, sum(above)
        for layer, chain in enumerate(chains):
            after -= above[layer]
            turns = last if self.schedule.parts[layer] else 0
            project = self.layer(0, layer, (Activity.PROJECT,))
            readout = self.layer(turns, layer, _AFTER_ADVANCE)
            found.append(before + project + chain + readout + (after if turns == last else 0.0))
            before += below[layer]
        return found

    def ramps(self) -> list[float]:
        """For each rank: how long it waits for the first wave, and is idle after the last, at the least."""
        layout = self.layout
        first: dict[int, tuple[int, int]] = {}
        for chunk in range(layout.chunks):
            for sequence in range(layout.sequences):
                first.setdefault(layout.owner(sequence, chunk), (sequence, chunk))
            if len(first) == layout.ranks:
                break
        ramps = [0.0] * layout.ranks
        if not self.schedule.parts[0]:
            return ramps
        until: dict[tuple[Run, int], list[float]] = {}
        for rank, (sequence, chunk) in first.items():
            for run in _BOTH:
                waves = until.setdefault((run, sequence), [0.0])
                for before in range(len(waves) - 1, chunk):
                    hop = self.advance(run, sequence, before, 0) + self.wire(
                        run, sequence, before, 0
                    )
                    waves.append(waves[-1] + hop)
                outside = self.outside(run, sequence, 0) - self.outside(run, sequence, chunk)
                ramps[rank] += max(0.0, waves[chunk] + outside)
        return ramps

    def outside(self, run: Run, sequence: int, chunk: int) -> float:
        """What a chunk computes before its first advance in a forward, or after its last in a backward."""
        return sum(
            self.seconds(run, activity, sequence, chunk, 0)
            for activity in (Activity.EMBED, Activity.PROJECT)
        )

    def layer(self, chunk: int, layer: int, activities: tuple[Activity, ...]) -> float:
        """Compute of a layer of a chunk, forward and backward."""
        return sum(
            self.seconds(run, activity, 0, chunk, layer) for run in _BOTH for activity in activities
        )

    def advance(self, run: Run, sequence: int, chunk: int, layer: int) -> float:
        """Seconds of one advance."""
        return self.seconds(run, Activity.ADVANCE, sequence, chunk, layer)

    def seconds(self, run: Run, activity: Activity, sequence: int, chunk: int, layer: int) -> float:
        """Cost of an activity as the program of this chunk has it."""
        begin, end = self.layout.bounds(chunk)
        sign = 1 if run is Run.FORWARD else -1
        receives, sends = (self.crosses(sequence, chunk, offset) for offset in (-sign, sign))
        return self.costs.seconds(
            run, activity, end - begin, layer, alone=is_alone(run, receives, sends)
        )

    def crosses(self, sequence: int, chunk: int, offset: int) -> bool:
        """Whether the chunk to the left (-1) or right (+1) is another rank's."""
        other = self.layout.neighbour(sequence, chunk, offset)
        return other not in (None, self.layout.owner(sequence, chunk))

    def wire(self, run: Run, sequence: int, boundary: int, layer: int) -> float:
        """From the end of an advance until the neighbour has what it hands over; 0 on one rank."""
        if not self.crosses(sequence, boundary, +1):
            return 0.0
        layout, per_host = self.layout, self.ranks_per_host
        left, right = (layout.owner(sequence, chunk) for chunk in (boundary, boundary + 1))
        same = left // per_host == right // per_host
        key = run, boundary if self.sizes.differ else 0, layer, same
        if key not in self._wires:
            size = self.sizes.at(key[1])[self.last_slots[layer]]
            held = self.costs.seconds(run, Activity.SEND, 0, layer)
            self._wires[key] = held + self.costs.wire_seconds(size, same)
        return self._wires[key]
