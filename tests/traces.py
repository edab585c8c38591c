"""Traces made by hand: the real schedule in virtual time, every activity with a cost of its own."""

import random

from tttscale.observe.spans import RankTrace, Span, StepMark, Trace
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Phase, Schedule

PARTS = ("qk_conv", "state")
BYTES = {"qk_conv": 1600, "state": 530_000}
MICROSECONDS = {  # per chunk of a layer
    "embed": 12.0,
    "project": 160.0,
    "advance": 60.0,
    "readout": 110.0,
    "finish": 240.0,
    "head": 300.0,
    "send": 4.0,
}
FACTOR = {"forward": 1.0, "recompute": 1.0, "backward": 2.1}
WIRE = 30e-6
"""Seconds."""


class _Clock:
    """One rank: its time, and the spans that it adds."""

    def __init__(self, rank, replica, host, rng, slow, place, delays, cost, data):
        self.trace = RankTrace(rank, replica, host)
        self.data = data
        self.cost = MICROSECONDS | (cost or {})
        self.place, self.delays = place, delays
        self.now, self.rng, self.slow = 0.0, rng, slow
        self.bytes = 400 << 20

    def spend(self, seconds, activity, run="", task=None, layer=-1, part=""):
        place = (task.sequence, task.chunk) if task else (-1, -1)
        end = self.now + seconds
        self.trace.spans.append(Span(self.now, end, activity, run, *place, layer, part))
        self.now = end

    def work(self, activity, run, task, layer=-1, share=1.0, part=""):
        seconds = self.cost[activity] * 1e-6 * FACTOR[run] * share * self.slow
        self.spend(seconds * self.rng.uniform(0.96, 1.04), activity, run, task, layer, part)

    def use(self, mebibytes):
        self.bytes += int(mebibytes * 2**20)
        self.trace.memory.append((self.now, self.bytes))


def _forward(clock, task, layout, arrivals, run, messages):
    """Yields before it needs a message; the message is there when it is resumed."""
    left = layout.neighbour(task.sequence, task.chunk, -1)
    right = layout.neighbour(task.sequence, task.chunk, +1)
    here = layout.owner(task.sequence, task.chunk)
    first = task.layers.start == 0
    if first:
        clock.work("embed", run, task)
    for layer in task.layers:
        for place, part in enumerate(PARTS):
            last = place == len(PARTS) - 1
            clock.work("project", run, task, layer, 0.5)
            if not last and messages and right not in (None, here):
                _send(clock, task, layer, part, arrivals, run, right)
            if messages and left not in (None, here):
                yield from _wait(clock, task, layer, part, arrivals, run)
        clock.work("advance", run, task, layer)
        if messages and right not in (None, here):
            _send(clock, task, layer, PARTS[-1], arrivals, run, right)
        clock.work("readout", run, task, layer)
        clock.work("finish", run, task, layer)
        clock.use(1 if messages else 3)


def _backward(clock, task, layout, arrivals):
    left = layout.neighbour(task.sequence, task.chunk, -1)
    right = layout.neighbour(task.sequence, task.chunk, +1)
    here, run = layout.owner(task.sequence, task.chunk), "backward"
    for layer in reversed(task.layers):
        clock.work("finish", run, task, layer)
        clock.work("readout", run, task, layer)
        for place, part in enumerate(reversed(PARTS)):
            if right not in (None, here):
                yield from _wait(clock, task, layer, part, arrivals, run)
            clock.work("project" if place else "advance", run, task, layer)
            if left not in (None, here):
                _send(clock, task, layer, part, arrivals, run, left)
        clock.use(-4)
    if task.layers.start == 0:
        clock.work("embed", run, task)


def _send(clock, task, layer, part, arrivals, run, to):
    clock.work("send", "forward", task, layer, part=part)
    clock.trace.spans[-1] = clock.trace.spans[-1]._replace(run=run)
    span = clock.trace.spans[-1]
    key = (run, clock.trace.replica, task.sequence, span.boundary, layer, part)
    arrivals[key] = clock.now + WIRE + clock.delays.get((clock.place, to), 0.0)


def _wait(clock, task, layer, part, arrivals, run):
    boundary = task.chunk - 1 if run == "forward" else task.chunk
    key = (run, clock.trace.replica, task.sequence, boundary, layer, part)
    while key not in arrivals:
        yield
    arrival = arrivals.pop(key)
    clock.spend(max(0.0, arrival - clock.now), "wait", run, task, layer, part)


def _step(clock, schedule, rank, kept, arrivals):
    tasks, layout = schedule.tasks(rank, Phase.FORWARD), schedule.layout
    clock.spend(40e-6, "data")
    chunks = list(dict.fromkeys((t.sequence, t.chunk) for t in tasks))
    kept = set(chunks[len(chunks) - kept :])
    for task in tasks:
        clock.trace.reads.append(Span(clock.now, clock.now + 5e-5, "data", "", *chunks[0]))
        clock.spend(clock.data, "data", "forward", task)
        yield from _forward(clock, task, layout, arrivals, "forward", True)
        if (task.sequence, task.chunk) in kept and task.layers.stop == schedule.layers:
            clock.work("head", "forward", task)
    clock.spend(5e-6, "flush", "forward")
    for task in reversed(tasks):
        if (task.sequence, task.chunk) not in kept:
            yield from _forward(clock, task, layout, arrivals, "recompute", False)
            if task.layers.stop == schedule.layers:
                clock.work("head", "recompute", task)
        if task.layers.stop == schedule.layers:
            clock.work("head", "backward", task)
        yield from _backward(clock, task, layout, arrivals)
    clock.spend(5e-6, "flush", "backward")


def make_trace(
    ranks=2,
    chunks=8,
    layers=2,
    *,
    steps=1,
    replicas=1,
    sequences=1,
    kept=1,
    layout="striped",
    slow=None,
    delays=None,
    cost=None,
    data=None,
    hosts=1,
    origin="measured",
    seed=0,
):
    """A trace of `replicas` x `ranks` ranks.

    `slow` maps a rank to the factor by which it is slower, `delays` an edge (sender, receiver) of a replica
    to the seconds by which its messages are late, `data` a rank to the seconds for which each of its chunks
    waits for tokens; `cost` has other microseconds than `MICROSECONDS`.
    """
    schedule = Schedule(Layout(layout, chunks * 64, 64, ranks, sequences), (PARTS,) * layers)
    clocks = [
        _Clock(
            r, r // ranks, f"node{r * hosts // (ranks * replicas)}", random.Random(seed * 997 + r),
            (slow or {}).get(r, 1.0), r % ranks, delays or {}, cost, (data or {}).get(r, 0.0),
        )
        for r in range(ranks * replicas)
    ]  # fmt: skip
    for step in range(1, steps + 1):
        began, arrivals = max(c.now for c in clocks), {}
        for clock in clocks:
            if clock.now < began:
                clock.spend(began - clock.now, "idle")
            clock.use(0)
        running = {
            c.trace.rank: _step(c, schedule, c.trace.rank % ranks, kept, arrivals) for c in clocks
        }
        while running:
            for rank in list(running):
                if next(running[rank], "done") == "done":
                    del running[rank]
        assert not arrivals, "a message that nobody waited for"
        end = max(c.now for c in clocks)
        for clock in clocks:
            clock.spend(end - clock.now, "idle")
            for activity, seconds in (("reduce", 3e-4), ("optimizer", 2e-4), ("gather", 1e-4)):
                clock.spend(seconds, activity)
            clock.trace.steps.append(StepMark(step, began, clock.now))
    facts = {
        "run": "made",
        "sequence_ranks": ranks,
        "replicas": replicas,
        "chunks": chunks,
        "chunk_tokens": 64,
        "sequence_tokens": chunks * 64,
        "sequences": sequences,
        "layers": layers,
        "layout": layout,
        "parts": [list(PARTS)] * layers,
        "part_bytes": BYTES,
        "tokens_per_step": chunks * 64 * sequences * replicas,
    }
    return Trace(origin, [c.trace for c in clocks], facts)
