"""What a rank does inside a task, step by step: computes, waits for a message, sends one.

This is the only place besides the model that knows where in a block carries are exchanged.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from tttscale.plan.costs import Costs
from tttscale.scan.timeline import Activity, Run


class Does(IntEnum):
    """What comes at the end of a step."""

    COMPUTE = 0
    """Nothing more."""
    WAIT = 1
    """Waiting for a message."""
    SEND = 2
    """Sending one."""


class Label(NamedTuple):
    """What a step is called in a trace."""

    activity: Activity
    layer: int = -1
    part: str = ""


class Step(NamedTuple):
    """Some compute, and what comes at its end."""

    seconds: float
    """Time of the compute."""
    does: Does
    slot: int = -1
    """Which of the boundary's messages, counted over all layers and parts."""
    held: float = 0.0
    """Seconds for which a send holds up the rank."""
    label: Label | None = None
    """None in steps that were merged."""


class Program(NamedTuple):
    """One run of a task."""

    run: Run
    steps: list[Step]
    busy: float
    """Seconds of compute in all of them."""
    held: float
    """Seconds in which sends hold up the rank."""


def is_alone(run: Run, receives: bool, sends: bool) -> bool:
    """Whether no other rank waits for what a run hands over, so that a scan need not hurry.

    Args:
        run: forward, recompute or backward.
        receives: the chunk before it in this sweep is on another rank.
        sends: so is the chunk after it.
    """
    return not (sends or (receives and run is Run.BACKWARD))


class _Task(NamedTuple):
    """What decides on a program; see `Programs.get`."""

    run: Run
    layers: range
    tokens: int
    receives: bool
    sends: bool
    head: bool


class Programs:
    """Makes the programs of a model, each once."""

    def __init__(self, parts: tuple[tuple[str, ...], ...], costs: Costs, *, labels: bool) -> None:
        """Make none yet.

        Args:
            parts: of each layer's carry, in the order of its forward.
            costs: of every activity.
            labels: keep every activity apart and name it; otherwise compute without a message is merged.
        """
        self._parts, self._costs, self._labels = parts, costs, labels
        self._made: dict[tuple[Run, range, int, bool, bool, bool], Program] = {}
        self.offsets = [0]
        """Slot of each layer's first part, and after the last layer the number of all slots."""
        for names in parts:
            self.offsets.append(self.offsets[-1] + len(names))

    def get(
        self, run: Run, layers: range, tokens: int, receives: bool, sends: bool, head: bool
    ) -> Program:
        """The program of one run of some layers of a chunk.

        Args:
            run: forward, recompute or backward.
            layers: of the task.
            tokens: of the chunk.
            receives: the chunk before it in this sweep is on another rank.
            sends: so is the chunk after it.
            head: the last layer is followed by the head; it is not where the graph is not built.
        """
        key = run, layers, tokens, receives, sends, head
        if key not in self._made:
            task = _Task(run, layers, tokens, receives, sends, head)
            steps = list(self._backward(task) if run is Run.BACKWARD else self._forward(task))
            busy, held = sum(s.seconds for s in steps), sum(s.held for s in steps)
            self._made[key] = Program(run, steps if self._labels else _merged(steps), busy, held)
        return self._made[key]

    def _forward(self, task: _Task) -> Iterator[Step]:
        if task.layers.start == 0:
            yield self._compute(task, Activity.EMBED)
        for layer in task.layers:
            *pieces, rest = self._project(task, layer)
            *earlier, last = self._exchanges(task, layer) or [((), ())]
            for seconds, (waits, leaves) in zip(pieces, earlier, strict=True):
                yield Step(seconds, Does.COMPUTE, label=Label(Activity.PROJECT, layer))
                yield from (*waits, *leaves)
            yield Step(rest, Does.COMPUTE, label=Label(Activity.PROJECT, layer))
            yield from last[0]
            yield self._compute(task, Activity.ADVANCE, layer)
            yield from last[1]
            yield self._compute(task, Activity.READOUT, layer)
            yield self._compute(task, Activity.FINISH, layer)
        if self._has_head(task):
            yield self._compute(task, Activity.HEAD)

    def _backward(self, task: _Task) -> Iterator[Step]:
        if self._has_head(task):
            yield self._compute(task, Activity.HEAD)
        for layer in reversed(task.layers):
            *pieces, rest = self._project(task, layer)
            last, *earlier = reversed(self._exchanges(task, layer) or [((), ())])
            yield self._compute(task, Activity.FINISH, layer)
            yield self._compute(task, Activity.READOUT, layer)
            yield from last[0]
            yield self._compute(task, Activity.ADVANCE, layer)
            yield from last[1]
            for seconds, (waits, leaves) in zip(pieces, earlier, strict=True):
                yield Step(seconds, Does.COMPUTE, label=Label(Activity.PROJECT, layer))
                yield from (*waits, *leaves)
            yield Step(rest, Does.COMPUTE, label=Label(Activity.PROJECT, layer))
        if task.layers.start == 0:
            yield self._compute(task, Activity.EMBED)

    def _has_head(self, task: _Task) -> bool:
        return task.head and task.layers.stop == len(self._parts)

    def _seconds(self, task: _Task, activity: Activity, layer: int) -> float:
        alone = is_alone(task.run, task.receives, task.sends)
        return self._costs.seconds(task.run, activity, task.tokens, layer, alone)

    def _compute(self, task: _Task, activity: Activity, layer: int = -1) -> Step:
        seconds = self._seconds(task, activity, layer)
        return Step(seconds, Does.COMPUTE, label=Label(activity, layer))

    def _project(self, task: _Task, layer: int) -> list[float]:
        """Seconds of PROJECT between the exchanges of the earlier parts, in the order of this run."""
        total, parts = self._seconds(task, Activity.PROJECT, layer), self._parts[layer]
        shares = sorted(self._costs.share_before(task.run, parts, i) for i in range(len(parts) - 1))
        return [total * (after - before) for before, after in pairwise([0.0, *shares, 1.0])]

    def _exchanges(self, task: _Task, layer: int) -> list[tuple[Iterable[Step], Iterable[Step]]]:
        """Return for each part, in the order of the forward, the wait for it and its send."""
        held = self._seconds(task, Activity.SEND, layer) if task.sends else 0.0
        found = []
        for slot, part in enumerate(self._parts[layer], self.offsets[layer]):
            wait = Step(0.0, Does.WAIT, slot, label=Label(Activity.WAIT, layer, part))
            send = Step(0.0, Does.SEND, slot, held, Label(Activity.SEND, layer, part))
            found.append(((wait,) * task.receives, (send,) * task.sends))
        return found


def _merged(steps: list[Step]) -> list[Step]:
    """Take compute into the step that comes after it."""
    merged, seconds = [], 0.0
    for step in steps:
        seconds += step.seconds
        if step.does is not Does.COMPUTE:
            merged.append(Step(seconds, step.does, step.slot, step.held))
            seconds = 0.0
    return [*merged, Step(seconds, Does.COMPUTE)] if seconds else merged
