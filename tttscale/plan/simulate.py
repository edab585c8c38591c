"""The sweeps of one step under given costs: when every rank computes, waits and is done.

The simulator runs the very `Schedule` that the sweeps execute: its tasks, in each rank's order. That order is
fixed, so a clock per rank is exact: compute adds its cost, and a receive takes the later of the rank's own
clock and the message's arrival. What happens inside a task is in `program.py`.

Left out: reading tokens, documents, and how far ahead receives are started (a message leaves when it is sent
and the link has taken those before it).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tttscale.observe.spans import RankTrace, Span, StepMark, Trace
from tttscale.plan.bounds import possible
from tttscale.plan.costs import Costs
from tttscale.plan.message_bytes import MessageBytes
from tttscale.plan.program import Does, Program, Programs
from tttscale.scan.keep_policy import backward_order, split_kept
from tttscale.scan.schedule import CarryKey, ChunkTask, Phase, Schedule
from tttscale.scan.step_plan import StepPlan
from tttscale.scan.timeline import Activity, Run

Kept = Mapping[int, float] | float
"""Chunks whose activations are kept: of each rank, or of all. A fraction is of one more chunk's layers."""


@dataclass(frozen=True)
class Simulation:
    """What the sweeps of a step take; lists are by rank.

    busy + ramp + starved + exposed is the same for all ranks: the sweeps' seconds.
    """

    seconds: float
    """From the beginning of the first forward to the end of the last backward."""
    busy_seconds: list[float]
    """Compute."""
    ramp_seconds: list[float]
    """Waits for a sender that was not done, in the first chunk of either sweep, and idle at the end."""
    starved_seconds: list[float]
    """Waits for a sender that was not done, in all other chunks."""
    exposed_seconds: list[float]
    """What is left of waits (the wire), sends as far as they hold up the rank, and flushes."""
    chain_seconds: float
    """The serial chain of one layer through a sequence, there and back: no number of ranks is faster."""
    possible_seconds: float
    """max(work / ranks, chain), with the ramp that either has at the least."""
    trace: Trace | None = None
    """Every activity of every rank, if it was asked for."""

    @property
    def busy_fraction(self) -> float:
        """The share of all ranks' time in which they compute."""
        return sum(self.busy_seconds) / (len(self.busy_seconds) * self.seconds)


def simulate(
    schedule: Schedule,
    carry_bytes: Callable[[CarryKey], int],
    costs: Costs,
    *,
    kept: Kept = 1,
    ranks_per_host: int = 8,
    trace: bool = False,
) -> Simulation:
    """Run one step's sweeps under given costs.

    Args:
        schedule: as the sweeps run it.
        carry_bytes: length of the message that carries a part. If it depends on the boundary, it grows or
            shrinks throughout the sequence.
        costs: of every activity.
        kept: chunks whose activations are kept.
        ranks_per_host: neighbouring ranks that share a host; rank 0 is the first of its host.
        trace: also note every activity.
    """
    return Simulator(schedule, carry_bytes, costs, kept, ranks_per_host, trace).run()


@dataclass
class _Rank:
    """Where a rank is, and what its time has gone to."""

    index: int
    work: list[tuple[Run, ChunkTask]]
    """In order: the forward sweep, then the backward sweep with its recomputations."""
    forward: int
    """How many of them are the forward sweep's."""
    kept: frozenset[ChunkTask]
    place: int = 0
    clock: float = 0.0
    busy: float = 0.0
    ramp: float = 0.0
    starved: float = 0.0
    exposed: float = 0.0
    spans: list[Span] = field(default_factory=list)

    def first(self) -> tuple[int, int]:
        """Sequence and chunk with which this sweep began."""
        task = self.work[0 if self.place < self.forward else self.forward][1]
        return task.sequence, task.chunk


@dataclass
class _Link:
    """From one rank to another in one sweep: messages leave one after the other."""

    latency: float
    free: float = 0.0
    """When all that was sent so far has left."""


class Simulator:
    """One step's sweeps under given costs; see `simulate`."""

    def __init__(
        self,
        schedule: Schedule,
        carry_bytes: Callable[[CarryKey], int],
        costs: Costs,
        kept: Kept,
        ranks_per_host: int,
        trace: bool,
    ) -> None:
        self.schedule, self.costs, self.traces = schedule, costs, trace
        self.layout, self.ranks_per_host = schedule.layout, ranks_per_host
        self.bytes = MessageBytes(schedule, carry_bytes)
        self.programs = Programs(schedule.parts, costs, labels=trace)
        """What happens inside tasks; to be replaced before `run` by what is to be tried."""
        self.ranks = [self._rank(rank, kept) for rank in range(self.layout.ranks)]
        self.messages: dict[tuple[Phase, int, int], tuple[list[float], list[float]]] = {}
        """(sweep, sequence, chunk that sends) -> when each of its messages was sent, and arrived."""
        self.done: set[tuple[Phase, int, int, int]] = set()
        """(sweep, sequence, chunk, layer)."""
        self.links: dict[tuple[int, int, Phase], _Link] = {}
        self.occupied: dict[tuple[int, bool], list[float]] = {}

    def _rank(self, index: int, kept: Kept) -> _Rank:
        chunks = kept[index] if isinstance(kept, Mapping) else kept
        tasks = self.schedule.tasks(index, Phase.FORWARD)
        plan = StepPlan(True, *split_kept(tasks, round(chunks * self.schedule.layers)))
        forward = [(Run.FORWARD, task) for task in plan.tasks]
        back = [
            (run, replace(task, phase=Phase.BACKWARD))
            for run, task in backward_order(plan.tasks, plan.kept)
        ]
        return _Rank(index, [*forward, *back], len(forward), plan.kept)

    def run(self) -> Simulation:
        """Let every rank go on until its next task receives from one that has not run yet."""
        runnable = list(reversed(self.ranks))
        while runnable:
            rank = runnable.pop()
            while rank.place < len(rank.work) and self._is_ready(rank):
                run, task = rank.work[rank.place]
                self._run(rank, run, task)
                target = self._other(rank, task, +1)
                if target is not None:
                    runnable.append(self.ranks[target])
        assert all(r.place == len(r.work) for r in self.ranks), "ranks wait in a circle"
        return self._result()

    def _other(self, rank: _Rank, task: ChunkTask, offset: int) -> int | None:
        """The other rank that this task receives from (-1) or sends to (+1), in its sweep's direction."""
        sign = 1 if task.phase is Phase.FORWARD else -1
        owner = self.layout.neighbour(task.sequence, task.chunk, sign * offset)
        return None if owner == rank.index else owner

    def _is_ready(self, rank: _Rank) -> bool:
        """Whether all that its next task receives has been sent."""
        run, task = rank.work[rank.place]
        if run is Run.RECOMPUTE or self._other(rank, task, -1) is None:
            return True
        before = task.chunk + (-1 if task.phase is Phase.FORWARD else +1)
        phase, sequence, done = task.phase, task.sequence, self.done
        return all((phase, sequence, before, layer) in done for layer in task.layers)

    def _run(self, rank: _Rank, run: Run, task: ChunkTask) -> None:
        begin, end = self.layout.bounds(task.chunk)
        recompute = run is Run.RECOMPUTE
        receives, sends = (
            not recompute and self._other(rank, task, offset) is not None for offset in (-1, +1)
        )
        head = run is not Run.FORWARD or task in rank.kept
        arguments = run, task.layers, end - begin, receives, sends, head
        self._execute(rank, task, self.programs.get(*arguments))
        if not recompute:
            place = task.phase, task.sequence, task.chunk
            self.done.update((*place, layer) for layer in task.layers)
        rank.place += 1
        if rank.place in (rank.forward, len(rank.work)):
            self._flush(rank, task.phase)

    def _execute(self, rank: _Rank, task: ChunkTask, program: Program) -> None:
        """Run one program: the loop in which all of the simulator's time is spent."""
        sent, arrived = self._received(task)
        sent_here, arrived_here = self._sends(task)
        link, occupied = self._link(rank, task)
        clock, late, wire = rank.clock, 0.0, 0.0
        for seconds, does, slot, held, label in program.steps:
            clock += seconds
            began = clock - seconds
            if does is Does.WAIT:
                arrival = arrived[slot]
                if arrival > clock:
                    began = max(clock, sent[slot])
                    late += began - clock
                    wire += arrival - began
                    began, clock = clock, arrival
            elif does is Does.SEND:
                clock += held
                sent_here[slot] = clock
                link.free = max(clock, link.free) + occupied[slot]
                arrived_here[slot] = link.free + link.latency
            if label is not None:
                what, layer, part = label
                place = task.sequence, task.chunk, layer, part
                rank.spans.append(Span(began, clock, str(what), str(program.run), *place))
        rank.clock = clock
        rank.busy += program.busy
        rank.exposed += wire + program.held
        if (task.sequence, task.chunk) == rank.first():
            rank.ramp += late
        else:
            rank.starved += late

    def _received(self, task: ChunkTask) -> tuple[list[float], list[float]]:
        before = task.chunk + (-1 if task.phase is Phase.FORWARD else +1)
        return self.messages.get((task.phase, task.sequence, before), ([], []))

    def _sends(self, task: ChunkTask) -> tuple[list[float], list[float]]:
        key, slots = (task.phase, task.sequence, task.chunk), self.programs.offsets[-1]
        if key not in self.messages:
            self.messages[key] = [0.0] * slots, [0.0] * slots
        return self.messages[key]

    def _link(self, rank: _Rank, task: ChunkTask) -> tuple[_Link, list[float]]:
        """The link on which a task sends, and for how long each of its messages occupies it."""
        target = self._other(rank, task, +1)
        if target is None:
            return _Link(0.0), []
        same = rank.index // self.ranks_per_host == target // self.ranks_per_host
        latency = self.costs.wire_seconds(0, same)
        link = self.links.setdefault((rank.index, target, task.phase), _Link(latency))
        boundary = task.chunk if task.phase is Phase.FORWARD else task.chunk - 1
        place = boundary if self.bytes.differ else 0
        if (place, same) not in self.occupied:
            sizes = self.bytes.at(place)
            self.occupied[place, same] = [
                self.costs.wire_seconds(size, same) - latency for size in sizes
            ]
        return link, self.occupied[place, same]

    def _flush(self, rank: _Rank, phase: Phase) -> None:
        """Wait at the end of a sweep until everything has left."""
        left = [
            link.free
            for (source, _, p), link in self.links.items()
            if (source, p) == (rank.index, phase)
        ]
        began, rank.clock = rank.clock, max([rank.clock, *left])
        rank.exposed += rank.clock - began
        if self.traces:
            rank.spans.append(Span(began, rank.clock, str(Activity.FLUSH)))

    # ---- what came of it -----------------------------------------------------------------------

    def _result(self) -> Simulation:
        end = max(rank.clock for rank in self.ranks)
        for rank in self.ranks:
            rank.ramp += end - rank.clock
            if self.traces:
                rank.spans.append(Span(rank.clock, end, str(Activity.IDLE)))
        busy = [rank.busy for rank in self.ranks]
        chain, least = possible(
            self.schedule, self.bytes, self.costs, self.ranks_per_host, sum(busy)
        )
        return Simulation(
            seconds=end,
            busy_seconds=busy,
            ramp_seconds=[rank.ramp for rank in self.ranks],
            starved_seconds=[rank.starved for rank in self.ranks],
            exposed_seconds=[rank.exposed for rank in self.ranks],
            chain_seconds=chain,
            possible_seconds=least,
            trace=self._trace(end) if self.traces else None,
        )

    def _trace(self, end: float) -> Trace:
        ranks = [
            rank_trace(rank.index, rank.spans, self.ranks_per_host, end) for rank in self.ranks
        ]
        return Trace("simulated", ranks, trace_facts(self.schedule, self.bytes, self.costs))


def rank_trace(rank: int, spans: list[Span], ranks_per_host: int, seconds: float) -> RankTrace:
    """One step of a rank that was not measured."""
    host = f"host {rank // ranks_per_host}"
    return RankTrace(rank, host=host, steps=[StepMark(1, 0.0, seconds)], spans=spans)


def trace_facts(schedule: Schedule, sizes: MessageBytes, costs: Costs) -> dict[str, Any]:
    """What a trace that was not measured says of the job, besides its spans."""
    layout = schedule.layout
    names = [name for parts in schedule.parts for name in parts]
    return {
        "sequence_ranks": layout.ranks,
        "replicas": 1,
        "layout": layout.kind,
        "chunks": layout.chunks,
        "chunk_tokens": layout.chunk_tokens,
        "sequence_tokens": layout.length_tokens,
        "sequences": layout.sequences,
        "layers": schedule.layers,
        "parts": [list(names) for names in schedule.parts],
        "part_bytes": dict(zip(names, sizes.at(0), strict=True)) if layout.chunks > 1 else {},
        "costs": costs.source,
    }
