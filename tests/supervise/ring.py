"""Ranks that do the tasks of the real schedule, until one does not: what their pages say then. Simulated."""

from dataclasses import dataclass

from tttscale.scan.layout import Layout
from tttscale.scan.schedule import ChunkTask, Phase, Schedule
from tttscale.supervise.member import Member, State
from tttscale.supervise.page import Beat
from tttscale.supervise.page import Phase as Part
from tttscale.supervise.signs import Sign

STEP = 7


@dataclass(frozen=True)
class Op:
    """One activity; a wait needs a key, and an advance hands one on."""

    activity: str
    run: str = ""
    sequence: int = -1
    chunk: int = -1
    layer: int = -1
    needs: object = None
    sends: object = None
    """Key and the rank that receives it."""


def ops(schedule: Schedule, rank: int, replica: int) -> list[Op]:
    """All that a rank does in a step."""
    found = [Op("idle", needs="begin")]
    for phase in Phase:
        for task in schedule.tasks(rank, phase):
            found += _task(schedule, task, replica)
        found.append(Op("flush"))
    return [*found, Op("idle", needs="sweeps"), Op("reduce", needs="reduce"), Op("optimizer")]


def _task(schedule: Schedule, task: ChunkTask, replica: int) -> list[Op]:
    forward, layout = task.phase is Phase.FORWARD, schedule.layout
    found, place = [], (task.sequence, task.chunk)
    if not forward:
        found += [Op("project", "recompute", *place, layer) for layer in task.layers]
    for layer in task.layers if forward else reversed(task.layers):
        step = 1 if forward else -1
        source = layout.neighbour(*place, -step)
        target = layout.neighbour(*place, step)
        run = str(task.phase)
        if source is not None:
            key = (replica, run, task.sequence, task.chunk - step, layer)
            found.append(Op("wait", run, *place, layer, needs=key))
        key = None if target is None else (replica, run, *place, layer)
        found.append(Op("advance", run, *place, layer, sends=key))
    return found


class Ring:
    """Replicas of a ring of ranks; every activity takes a second, and one of them never ends."""

    def __init__(self, layout: Layout, layers: int, replicas: int = 1) -> None:
        schedule = Schedule(layout, (("state",),) * layers)
        self.sequence = layout.ranks
        self.world = layout.ranks * replicas
        self.ops = [
            ops(schedule, rank % layout.ranks, rank // layout.ranks) for rank in range(self.world)
        ]

    def stuck(self, rank: int, at: int, *, loses: object = None) -> list[tuple[Op, float]]:
        """Run until nobody can do anything any more.

        Args:
            rank: which stays in its activity number `at` for ever.
            at: negative: none does.
            loses: a key that is sent and does not arrive.

        Returns:
            For each rank what it does, and for how long.
        """
        place, since, sent = [0] * self.world, [0] * self.world, set()
        now, moved = 0, True
        while moved:
            moved, now = False, now + 1
            arrived = set()
            for r in range(self.world):
                op = self.ops[r][place[r]]
                if place[r] + 1 == len(self.ops[r]) or (r == rank and place[r] == at):
                    continue
                if not self._may_end(r, op, place, sent):
                    continue
                if op.sends is not None and op.sends != loses:
                    arrived.add(op.sends)
                place[r], since[r], moved = place[r] + 1, now, True
            sent |= arrived
        return [(self.ops[r][place[r]], now - since[r]) for r in range(self.world)]

    def _may_end(self, rank: int, op: Op, place: list[int], sent: set[object]) -> bool:
        if isinstance(op.needs, str):  # a sum over all ranks
            points = [self._point(r, op.needs) for r in range(self.world)]
            return all(place[r] >= points[r] for r in range(self.world))
        return op.needs is None or op.needs in sent

    def _point(self, rank: int, name: str) -> int:
        return next(i for i, op in enumerate(self.ops[rank]) if op.needs == name)


def member(rank: int, op: Op, seconds: float, *, stopped: bool = False, **more) -> Member:
    """What the hub knows of a rank in this activity."""
    swept = bool(op.run) or op.activity in ("flush", "reduce") or op.needs == "sweeps"
    place = op.sequence, op.chunk, op.layer
    beat = Beat(9, -seconds, STEP, 0.0, Part.STEP, -seconds, op.activity, op.run, *place, swept)
    sign = Sign(beat, stopped=stopped, whole={"step": 1.0, "first step": 1.0}, **more)
    return Member(rank, "here", State.HERE, sign)
