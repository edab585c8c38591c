"""A step whose serial chains run beside other chunks' work, on a stream of their own: list scheduling.

Each rank has two engines, one for *advance* and one for everything else. Whatever is ready first in the order
of the rank's tasks runs next; so a rank works on two of its chunks at a time.
"""

import heapq
from collections import defaultdict

from tttscale.plan.costs import Costs
from tttscale.scan.schedule import ChunkTask, Phase, Schedule
from tttscale.scan.timeline import Activity, Run

_LIVE = 2
"""Chunks of a rank whose activations are in memory at a time."""


class TwoStreams:
    """The graph of a step: nodes with a duration, an engine and a priority."""

    def __init__(
        self, schedule: Schedule, size: int, costs: Costs, *, kept: int, slowed: float, streams: int
    ) -> None:
        """Build it.

        Args:
            schedule: striped, all parts but the state left out.
            size: bytes of a state.
            costs: of every activity.
            kept: chunks of each rank that are not recomputed.
            slowed: factor on everything beside the chains, which take multiprocessors away.
            streams: of a rank, 1 or 2.
        """
        self._schedule, self._costs, self._size = schedule, costs, size
        self._slowed, self._streams = slowed, streams
        self._seconds: list[float] = []
        self._engine: list[int] = []
        self._priority: list[tuple[int, ...]] = []
        self._after: list[list[tuple[int, float]]] = []
        self._missing: list[int] = []
        self._known: dict[tuple, int] = {}
        for rank in range(schedule.layout.ranks):
            self._add_rank(rank, kept)
        self._connect()

    def _add(
        self, key: tuple, activity: Activity, run: Run, rank: int, priority: tuple[int, ...]
    ) -> int:
        layer, tokens = key[-1], self._schedule.layout.chunk_tokens
        chain = activity is Activity.ADVANCE
        activities = {
            Activity.READOUT: (Activity.READOUT, Activity.FINISH),
            Activity.PROJECT: (Activity.PROJECT,),
            Activity.ADVANCE: (Activity.ADVANCE,),
        }[activity]
        seconds = sum(self._costs.seconds(run, a, tokens, layer) for a in activities)
        is_end = layer == self._schedule.layers - 1 and activity is Activity.READOUT
        if is_end and run is not Run.FORWARD:
            seconds += self._costs.seconds(run, Activity.HEAD, tokens, -1)
        self._seconds.append(seconds if chain else seconds * self._slowed)
        self._engine.append(rank * self._streams + (chain and self._streams == 2))
        self._priority.append(priority)
        self._after.append([])
        self._missing.append(0)
        self._known[key] = len(self._seconds) - 1
        return len(self._seconds) - 1

    def _add_rank(self, rank: int, kept: int) -> None:
        tasks = self._schedule.tasks(rank, Phase.FORWARD)
        layers = range(self._schedule.layers)
        for place, task in enumerate(tasks):
            self._chain_of(task, Run.FORWARD, layers, rank, (0, place))
        recomputed = tasks[: max(0, len(tasks) - kept)]
        for place, task in enumerate(reversed(tasks)):
            if task in recomputed:
                self._chain_of(task, Run.RECOMPUTE, layers, rank, (1, place, 0))
                done = self._known[Run.FORWARD, "r", task.sequence, task.chunk, layers[-1]]
                self._link(done, self._known[Run.RECOMPUTE, "p", task.sequence, task.chunk, 0])
            self._chain_of(task, Run.BACKWARD, layers, rank, (1, place, 1))
            built = Run.RECOMPUTE if task in recomputed else Run.FORWARD
            self._link(
                self._known[built, "r", task.sequence, task.chunk, layers[-1]],
                self._known[Run.BACKWARD, "r", task.sequence, task.chunk, layers[-1]],
            )
        backwards = list(reversed(tasks))
        for earlier, later in zip(backwards, backwards[_LIVE:], strict=False):
            if later in recomputed:
                self._link(
                    self._known[Run.BACKWARD, "p", earlier.sequence, earlier.chunk, 0],
                    self._known[Run.RECOMPUTE, "p", later.sequence, later.chunk, 0],
                )

    def _chain_of(
        self, task: ChunkTask, run: Run, layers: range, rank: int, place: tuple[int, ...]
    ) -> None:
        """Project, advance, read out: layer after layer, or all in reverse."""
        order = [("p", Activity.PROJECT), ("a", Activity.ADVANCE), ("r", Activity.READOUT)]
        before = None
        back = run is Run.BACKWARD
        for step, layer in enumerate(reversed(layers) if back else layers):
            for letter, activity in reversed(order) if back else order:
                key = run, letter, task.sequence, task.chunk, layer
                node = self._add(key, activity, run, rank, (*place, step))
                if before is not None:
                    self._link(before, node)
                before = node

    def _connect(self) -> None:
        """States go right, gradients left."""
        layout, wire = self._schedule.layout, self._costs.wire_seconds(self._size, same_host=True)
        for run, offset in ((Run.FORWARD, 1), (Run.BACKWARD, -1)):
            for (found, letter, sequence, chunk, layer), node in list(self._known.items()):
                target = run, "a", sequence, chunk + offset, layer
                if (found, letter) == (run, "a") and target in self._known:
                    crosses = layout.owner(sequence, chunk) != layout.owner(
                        sequence, chunk + offset
                    )
                    self._link(node, self._known[target], wire if crosses else 0.0)

    def _link(self, before: int, after: int, seconds: float = 0.0) -> None:
        self._after[before].append((after, seconds))
        self._missing[after] += 1

    def seconds(self) -> float:
        """Run it."""
        ready: dict[int, list[tuple[tuple[int, ...], int]]] = defaultdict(list)
        busy: set[int] = set()
        begin = [0.0] * len(self._seconds)
        events = [(0.0, 1, node) for node, missing in enumerate(self._missing) if not missing]
        heapq.heapify(events)
        end = 0.0

        def start(engine: int, now: float) -> None:
            if ready[engine] and engine not in busy:
                _, node = heapq.heappop(ready[engine])
                busy.add(engine)
                heapq.heappush(events, (now + self._seconds[node], 0, node))

        while events:
            now, arrives, node = heapq.heappop(events)
            engine = self._engine[node]
            if arrives:
                heapq.heappush(ready[engine], (self._priority[node], node))
            else:
                busy.discard(engine)
                end = max(end, now)
                for after, wire in self._after[node]:
                    begin[after] = max(begin[after], now + wire)
                    self._missing[after] -= 1
                    if not self._missing[after]:
                        heapq.heappush(events, (begin[after], 1, after))
            start(engine, now)
        assert not any(self._missing), "the graph has a circle"
        return end
