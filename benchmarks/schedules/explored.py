"""Schedules that are not built, in the simulator: what each would gain."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.schedules.published import state_bytes
from benchmarks.schedules.two_streams import TwoStreams
from tttscale.config import Config
from tttscale.plan.costs import Costs
from tttscale.plan.program import Does, Label, Program, Programs, Step
from tttscale.plan.simulate import Simulation, Simulator, simulate
from tttscale.scan.keep_policy import backward_order
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import CarryKey, ChunkTask, Phase, Schedule
from tttscale.scan.step_plan import StepPlan
from tttscale.scan.timeline import Activity, Run

TOKENS, LAYERS, PARAMETERS = 2**20, 24, 1_300_000_000
_TAIL_BYTES = 3 * 2048 * 4
_WEIGHT_SHARE = 0.5
"""The share of the backward's products that make weights' gradients; the others make the inputs'."""
_SCAN_MULTIPROCESSORS, _MULTIPROCESSORS = 32, 132
"""A serial scan has a program for each of 32 heads."""


@dataclass(frozen=True)
class Setting:
    """A run that is varied."""

    learner: str
    ranks: int
    chunk_tokens: int
    costs: Costs
    sequences: int = 1

    @property
    def schedule(self) -> Schedule:
        """Striped, as it is built."""
        layout = Layout("striped", TOKENS, self.chunk_tokens, self.ranks, self.sequences)
        return Schedule(layout, (("pre_conv", "qk_conv", "state"),) * LAYERS)

    def bytes(self, key: CarryKey) -> int:
        """Length of a message."""
        return state_bytes(self.learner) if key.part.startswith("state") else _TAIL_BYTES

    def now(self, kept: float = 1, **options: Any) -> Simulation:
        """As it is built."""
        return simulate(self.schedule, self.bytes, self.costs, kept=kept, **options)


def explore(setting: Setting) -> Iterator[tuple[str, float]]:
    """What is tried, and by which share the step is longer with it."""
    now = setting.now().seconds
    own = setting.schedule.layout.chunks // setting.ranks
    half = setting.now(1.5).seconds / now - 1
    yield "activations of half a chunk more kept (is built)", half
    yield "activations of all chunks kept (is built)", setting.now(own).seconds / now - 1
    yield "another chunk kept than the last, by rank", _best_kept(setting) / now - 1
    yield from _sequences(setting)
    for name, programs in (("bound by work", _Groups), ("bound by latency", _Sends)):
        found = _grouped(setting, programs)
        yield f"states handed on in 4 groups of heads, scans {name}", found / now - 1
    yield from _streams(setting)
    if setting.costs.step_seconds.seconds(PARAMETERS, setting.ranks, 1)["reduce"] > 0.01:
        yield (
            "gradients summed under the last backward wave (is built, measured on CPUs)",
            _reduced(setting, now),
        )
    for chunks in (1, 2):
        found = _put_off(setting, chunks)
        yield (
            f"weight gradients put off, at most those of {chunks} chunk{'s' * (chunks > 1)}",
            found / now - 1,
        )


# ---- which chunk is kept ---------------------------------------------------------------------------


def _best_kept(setting: Setting) -> float:
    """Each rank keeps one chunk: the one, found rank by rank, with which the step is shortest."""
    simulator = _simulator(setting)
    own = [simulator.schedule.tasks(rank, Phase.FORWARD) for rank in range(setting.ranks)]
    choice = [len(tasks) - 1 for tasks in own]

    def seconds() -> float:
        """Simulate the step with the present choice."""
        simulator = _simulator(setting)
        for rank, tasks, place in zip(simulator.ranks, own, choice, strict=True):
            plan = StepPlan(True, tuple(tasks), frozenset({tasks[place]}))
            rank.work[rank.forward :] = [
                (run, replace(task, phase=Phase.BACKWARD))
                for run, task in backward_order(plan.tasks, plan.kept)
            ]
            rank.kept = plan.kept
        return simulator.run().seconds

    best = seconds()
    for distance in (1, 2):  # ranks before a half of the ring wait longest for gradients
        for until in range(0, setting.ranks + 1, max(1, setting.ranks // 8)):
            choice = [
                max(0, len(tasks) - 1 - distance * (rank < until)) for rank, tasks in enumerate(own)
            ]
            best = min(best, seconds())
    return best


# ---- several sequences -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Unrotated(Layout):
    """All sequences begin at rank 0."""

    def owner(self, sequence: int, chunk: int) -> int:
        return chunk % self.ranks


def _sequences(setting: Setting) -> Iterator[tuple[str, float]]:
    alone = setting.now().seconds
    for count in (2, 4):
        several = replace(setting, sequences=count)
        rotated = several.now(count).seconds
        layout = _Unrotated("striped", TOKENS, setting.chunk_tokens, setting.ranks, count)
        schedule = Schedule(layout, setting.schedule.parts)
        straight = simulate(schedule, setting.bytes, setting.costs, kept=count).seconds
        yield (
            f"{count} sequences a step, rotated starts (is built)",
            rotated / count / alone - 1,
        )
        yield f"{count} sequences a step, all from rank 0", straight / count / alone - 1


# ---- states in groups of heads ---------------------------------------------------------------------

_GROUPS = 4


class _Groups(Programs):
    """A state leaves in groups of heads; the scan of a group takes its share of the time."""

    together = False
    """All groups advance at once, as the latency of one head decides."""

    def get(self, *arguments: Any) -> Program:
        """Change what comes between the wait for the state and the step after its send."""
        made = super().get(*arguments)
        if not any(step.does is not Does.COMPUTE for step in made.steps):
            return made
        return made._replace(steps=list(self._changed(made.steps)))

    def _changed(self, steps: list[Step]) -> Iterator[Step]:
        place = 0
        while place < len(steps):
            taken = steps[place : place + 3]
            labels = [step.label for step in taken]
            waits = bool(
                labels[0] and labels[0].activity is Activity.WAIT and "state" in labels[0].part
            )
            if waits or (labels[0] and labels[0].activity is Activity.ADVANCE):
                wait = taken[0] if waits else None
                advance = taken[1] if waits else taken[0]
                after = taken[2 if waits else 1] if len(taken) > 1 + waits else None
                send = after if after is not None and after.does is Does.SEND else None
                yield from self._group(wait, advance, send)
                place += 1 + waits + (send is not None)
            else:
                yield steps[place]
                place += 1

    def _group(self, wait: Step | None, advance: Step, send: Step | None) -> Iterator[Step]:
        for group in range(_GROUPS):
            if wait is not None:
                yield wait._replace(slot=wait.slot + group)
            if not self.together:
                yield advance._replace(seconds=advance.seconds / _GROUPS)
            if send is not None and not self.together:
                yield send._replace(slot=send.slot + group)
        if self.together:
            yield advance
            for group in range(_GROUPS if send is not None else 0):
                assert send is not None
                yield send._replace(slot=send.slot + group)


class _Sends(_Groups):
    """The same where a scan takes as long for a group as for all heads."""

    together = True


def _grouped(setting: Setting, programs: type[_Groups]) -> float:
    def size(key: CarryKey) -> int:
        whole = setting.bytes(key)
        return whole // _GROUPS if key.part.startswith("state") else whole

    # Slots of the groups come last in a layer, where the program expects the state.
    parts = ("pre_conv", "qk_conv", *(f"state{g}" for g in range(_GROUPS)))
    schedule = Schedule(setting.schedule.layout, (parts,) * LAYERS)
    simulator = Simulator(schedule, size, setting.costs, 1, 8, False)
    changed = programs(setting.schedule.parts, setting.costs, labels=True)
    changed.offsets = list(range(0, len(parts) * LAYERS + 1, len(parts)))
    simulator.programs = changed
    return simulator.run().seconds


# ---- a second stream -------------------------------------------------------------------------------


def _streams(setting: Setting) -> Iterator[tuple[str, float]]:
    def seconds(streams: int, slowed: float) -> float:
        size = state_bytes(setting.learner)
        options = {"kept": 1, "slowed": slowed, "streams": streams}
        return TwoStreams(setting.schedule, size, setting.costs, **options).seconds()

    now = seconds(1, 1.0)
    yield "advance on a second stream, free", seconds(2, 1.0) / now - 1
    lost = _SCAN_MULTIPROCESSORS / _MULTIPROCESSORS * _chain_share(setting)
    yield "advance on a second stream, products slowed by it", seconds(2, 1 + lost) / now - 1


def _chain_share(setting: Setting) -> float:
    """Seconds of *advance* for a second of everything else."""
    tokens, costs = setting.chunk_tokens, setting.costs

    def total(*activities: Activity) -> float:
        return sum(costs.seconds(run, a, tokens, 0) for run in Run for a in activities)

    return total(Activity.ADVANCE) / total(Activity.PROJECT, Activity.READOUT, Activity.FINISH)


# ---- the reduction ---------------------------------------------------------------------------------


def _reduced(setting: Setting, now: float) -> float:
    """A layer's gradients are summed as soon as all ranks have them; now all when the last rank is done."""
    trace = setting.now(trace=True).trace
    assert trace is not None
    step = setting.costs.step_seconds.seconds(PARAMETERS, setting.ranks, stage=1)
    last = [0.0] * LAYERS
    for rank in trace.ranks:
        for span in rank.spans:
            if span.run == "backward" and span.activity == "project":
                last[span.layer] = max(last[span.layer], span.end)
    free = 0.0
    for layer in reversed(range(LAYERS)):
        free = max(free, last[layer]) + step["reduce"] / LAYERS
    return (max(free, now) + step["gather"]) / (now + step["reduce"] + step["gather"]) - 1


# ---- weight gradients put off ----------------------------------------------------------------------


class _PutOff(Simulator):
    """The products of weights' gradients wait until the rank would wait, or until too many have gathered."""

    most_chunks = 1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._waiting: dict[int, list[float]] = {rank.index: [] for rank in self.ranks}

    def _execute(self, rank: Any, task: ChunkTask, program: Program) -> None:
        if program.run is not Run.BACKWARD:
            super()._execute(rank, task, program)
            return
        _, arrived = self._received(task)
        sent_here, arrived_here = self._sends(task)
        link, occupied = self._link(rank, task)
        waiting, clock = self._waiting[rank.index], rank.clock
        most = self.most_chunks * len(task.layers) * 3
        for seconds, does, slot, held, label in program.steps:
            if does is Does.COMPUTE:
                assert label is not None
                off = seconds * _share_put_off(label)
                clock += seconds - off
                if off:
                    waiting.append(off)
                if len(waiting) > most:
                    clock += waiting.pop(0)
            elif does is Does.WAIT:
                while waiting and clock + waiting[0] <= arrived[slot]:
                    clock += waiting.pop(0)
                clock = max(clock, arrived[slot])
            else:
                clock += held
                sent_here[slot] = clock
                link.free = max(clock, link.free) + occupied[slot]
                arrived_here[slot] = link.free + link.latency
        if rank.place == len(rank.work) - 1:
            clock += sum(waiting)
        rank.clock = clock
        rank.busy += program.busy


def _share_put_off(label: Label) -> float:
    products = (Activity.PROJECT, Activity.READOUT, Activity.FINISH)
    return _WEIGHT_SHARE if label.activity in products else 0.0


def _put_off(setting: Setting, chunks: int) -> float:
    simulator = _simulator(setting, _PutOff)
    simulator.most_chunks = chunks
    simulator.programs = Programs(setting.schedule.parts, setting.costs, labels=True)
    return simulator.run().seconds


def _simulator(setting: Setting, kind: Callable[..., Any] = Simulator) -> Any:
    return kind(setting.schedule, setting.bytes, setting.costs, 1, 8, False)


def model_config(learner: str) -> Config:
    """The 1.3B model."""
    return Config.model_validate(
        {
            "run": {"name": "explored"},
            "model": {"preset": f"ttt-{learner}-1.3b"},
            "data": {"store": "none", "sequence_length": TOKENS},
            "train": {"steps": 1},
        }
    )
