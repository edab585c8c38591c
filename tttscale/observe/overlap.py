"""How communication overlaps with compute: where every rank's time went, and what was possible.

Works on any `Trace`. Rank r of a result is the trace's r-th rank.
"""

from dataclasses import dataclass

import numpy as np

from tttscale.observe.hand_overs import HandOvers, HandOverSums, hand_overs
from tttscale.observe.least_time import traced_least_seconds
from tttscale.observe.span_table import (
    BACKWARD,
    COMPUTE,
    FORWARD,
    SpanTable,
    StepBounds,
    span_table,
)
from tttscale.observe.spans import Trace
from tttscale.observe.work import Chain, Straggler, straggler

_COLLECTIVE = ("reduce", "gather")
_EXPOSED = ("send", "flush", *_COLLECTIVE)


@dataclass(frozen=True)
class RankTimes:
    """One rank's step. The six times below add up to the step, and so do `activities`."""

    rank: int
    activities: dict[str, float]
    """Seconds in each activity; "idle" has what is missing at both ends of the step, "other" any gaps."""
    compute_seconds: float
    """The work of its chunks: embed, project, advance, readout, finish and head, in all runs."""
    ramp_seconds: float
    """Waits for a rank that is not done, in its first chunk of each sweep, and idle after its last."""
    starved_seconds: float
    """All other waits for a rank that is not done."""
    exposed_seconds: float
    """Communication that held it up: messages on their way, sends, flushes, reduction, gathering."""
    data_seconds: float
    """Waits for tokens."""
    rest_seconds: float
    """Optimizer, checkpoints, records and what has no name."""


@dataclass(frozen=True)
class StepTimes:
    """One optimizer step."""

    step: int
    begin: float
    """Seconds from the begin of the trace."""
    seconds: float
    ranks: list[RankTimes]
    compute_seconds: float
    """Mean over the ranks, as in the next five fields; the six add up to the step."""
    ramp_seconds: float
    starved_seconds: float
    exposed_seconds: float
    data_seconds: float
    rest_seconds: float
    work_seconds: float
    """W: all compute of a replica; of the one that has most."""
    sequence_ranks: int
    """R: ranks of a replica."""
    chain: Chain
    """The longest serial chain."""
    possible_seconds: float
    """Least time of the sweeps: W / R or the chain, whichever is longer, each with the least ramp it has."""
    outside_seconds: float
    """Outside of the sweeps: reduction, optimizer, gathering and the rest; a mean over the ranks."""
    straggler: Straggler | None
    """The rank that is slowest at the same work, if one is."""

    @property
    def bubble_fraction(self) -> float:
        """Share of the step in which ranks waited for a rank that was not done."""
        return (self.ramp_seconds + self.starved_seconds) / self.seconds if self.seconds else 0.0

    @property
    def possible_step_seconds(self) -> float:
        """The step with what was possible in its sweeps; never more than it took."""
        return min(self.seconds, self.possible_seconds + self.outside_seconds)


@dataclass(frozen=True)
class Overlap:
    """What the analysis of a trace found."""

    steps: list[StepTimes]
    edges: list[HandOverSums]
    """Hand-overs by sender, receiver and direction."""
    layers: list[HandOverSums]
    """Hand-overs by layer and direction."""
    cells: list[HandOverSums]
    """Hand-overs by sender, receiver, direction and layer."""
    total: list[HandOverSums]
    """Hand-overs by direction."""
    straggler: Straggler | None
    """The rank that is slowest at the same work over all steps, if one is."""
    between_seconds: list[dict[str, float]]
    """For each rank: seconds in each activity between the steps and after the last, for one step."""
    clock_error_seconds: float
    """Times of two ranks may be off by this against each other; shorter wires are not measured."""
    unmatched: int
    """Waits without a send in the trace; they count as waits for a rank that is not done."""
    inverted: int
    """Messages that appear to be received before they were sent, because clocks differ."""
    hand_overs: HandOvers
    """All of them."""
    table: SpanTable

    def mean(self, name: str) -> float:
        """A field of `StepTimes` that is a number, as a mean over the steps."""
        return sum(getattr(step, name) for step in self.steps) / max(1, len(self.steps))


def analyse(trace: Trace) -> Overlap:
    """Find where the time went.

    Args:
        trace: measured, rehearsed or simulated.
    """
    table = span_table(trace)
    found = hand_overs(table)
    count = max(1, len(table.steps))
    errors = sorted(rank.clock_error_seconds for rank in trace.ranks)
    return Overlap(
        steps=[_step(trace, table, found, index) for index in range(len(table.steps))],
        edges=found.sums("sender", "receiver", "backward", steps=count),
        layers=found.sums("layer", "backward", steps=count),
        cells=found.sums("sender", "receiver", "backward", "layer", steps=count),
        total=found.sums("backward", steps=count),
        straggler=straggler(table, trace.facts),
        between_seconds=_between(trace, table),
        clock_error_seconds=sum(errors[-2:]),
        unmatched=found.unmatched,
        inverted=found.inverted,
        hand_overs=found,
        table=table,
    )


def _step(trace: Trace, table: SpanTable, found: HandOvers, index: int) -> StepTimes:
    bounds, inside = table.steps[index], table.take(table.step == index)
    messages = found.take(found.step == index)
    in_ramp = _in_first_chunks(inside, messages)
    ranks = [_rank(bounds, inside, messages, in_ramp, rank) for rank in range(len(trace.ranks))]
    mean = {
        name: sum(getattr(rank, name) for rank in ranks) / len(ranks)
        for name in RankTimes.__dataclass_fields__
        if name.endswith("_seconds")
    }
    replicas = [rank.replica for rank in trace.ranks]
    possible, work, size, longest = max(
        (
            _possible(
                inside,
                messages,
                ranks,
                [i for i, r in enumerate(replicas) if r == replica],
            )
            for replica in sorted(set(replicas))
        ),
        key=lambda one: one[0],
    )
    outside = sum(r.activities.get(name, 0.0) for r in ranks for name in _COLLECTIVE) / len(ranks)
    return StepTimes(
        bounds.step,
        bounds.begin,
        bounds.seconds,
        ranks,
        **mean,
        work_seconds=work,
        sequence_ranks=size,
        chain=longest,
        possible_seconds=possible,
        outside_seconds=outside + mean["rest_seconds"],
        straggler=straggler(inside, trace.facts),
    )


def _rank(
    bounds: StepBounds, inside: SpanTable, found: HandOvers, in_ramp: np.ndarray, rank: int
) -> RankTimes:
    own = inside.rank == rank
    seconds = np.bincount(
        inside.activity[own], inside.seconds[own], minlength=len(inside.activities)
    )
    times = {name: float(s) for name, s in zip(inside.activities, seconds, strict=True) if s}
    begin = float(inside.begin[own].min(initial=bounds.end))
    end = float(inside.end[own].max(initial=begin))
    gaps = (end - begin) - sum(times.values())
    times["idle"] = times.get("idle", 0.0) + (begin - bounds.begin) + (bounds.end - end)
    times["other"] = times.get("other", 0.0) + gaps
    mine = found.receiver == rank
    exposed_waits = float(found.exposed_seconds[mine].sum())
    ramp_waits = float(found.upstream_seconds[mine & in_ramp].sum())
    compute = sum(times.get(name, 0.0) for name in COMPUTE)
    ramp = ramp_waits + times["idle"]
    starved = max(0.0, times.get("wait", 0.0) - exposed_waits - ramp_waits)
    exposed = exposed_waits + sum(times.get(name, 0.0) for name in _EXPOSED)
    data = times.get("data", 0.0)
    rest = max(0.0, bounds.seconds - compute - ramp - starved - exposed - data)
    return RankTimes(rank, times, compute, ramp, starved, exposed, data, rest)


def _in_first_chunks(inside: SpanTable, found: HandOvers) -> np.ndarray:
    """Which hand-overs are received in the receiver's first chunk of a sweep, in any layer."""
    first = np.zeros(len(found), bool)
    chunk = found.boundary + ~found.backward
    for run in (FORWARD, BACKWARD):
        spans = inside.take((inside.run == run) & (inside.chunk >= 0) & (inside.layer >= 0))
        ranks, place = np.unique(spans.rank, return_index=True)
        for rank, at in zip(ranks, place, strict=True):
            first |= (
                (found.receiver == rank)
                & (found.backward == (run == BACKWARD))
                & (found.sequence == spans.sequence[at])
                & (chunk == spans.chunk[at])
            )
    return first


def _possible(
    inside: SpanTable, found: HandOvers, ranks: list[RankTimes], members: list[int]
) -> tuple[float, float, int, Chain]:
    """What was possible in a replica's sweeps, its work, its ranks and its chain."""
    own, messages = (
        inside.take(np.isin(inside.rank, members)),
        found.take(np.isin(found.receiver, members)),
    )
    work = sum(ranks[member].compute_seconds for member in members)
    possible, longest = traced_least_seconds(own, messages, members, work)
    return possible, work, len(members), longest


def _between(trace: Trace, table: SpanTable) -> list[dict[str, float]]:
    """Seconds in each activity from the first step's begin on, outside of the steps, for one step."""
    if not table.steps:
        return [{} for _ in trace.ranks]
    began, count = table.steps[0].begin, len(table.steps)
    outside = table.take((table.step < 0) & (table.begin >= began))
    found = []
    for rank in range(len(trace.ranks)):
        own = outside.rank == rank
        seconds = np.bincount(
            outside.activity[own], outside.seconds[own], minlength=len(outside.activities)
        )
        names = zip(outside.activities, seconds, strict=True)
        found.append({name: float(s) / count for name, s in names if s > 0})
    return found
