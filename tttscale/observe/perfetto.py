"""A trace as one file for Perfetto and chrome://tracing: Chrome's trace events, as JSON.

A process per replica, a thread per rank and one for its reader. In a rank's thread steps hold tasks and tasks
hold activities; an arrow leads from every send of a carry to the wait that it ends.
"""

import gzip
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from tttscale.files import replaced
from tttscale.observe.hand_overs import hand_overs
from tttscale.observe.span_table import span_table
from tttscale.observe.spans import RankTrace, Span, Trace
from tttscale.observe.trace_bounds import bounded

MAX_EVENTS = 1_000_000
"""About 12 MB of .json.gz, and what Perfetto opens in a few seconds."""
_FEWEST_SPANS = 64
_TICKS = 8
"""Times are rounded to an eighth of a microsecond: 125 ns, a whole number for Perfetto, and exact in binary,
so that spans that touch do not overlap after rounding."""
_COLOURS = {  # names that chrome://tracing has; Perfetto chooses its own
    "wait": "terrible",
    "idle": "grey",
    "data": "bad",
    "flush": "bad",
    "send": "yellow",
    "project": "rail_load",
    "advance": "rail_response",
    "readout": "rail_animation",
    "finish": "rail_idle",
    "reduce": "cq_build_running",
    "gather": "cq_build_running",
    "optimizer": "good",
}
Event = dict[str, Any]


class Arrow(NamedTuple):
    """A part of a carry, or its gradient, on its way from one rank to another."""

    source: int
    """Rank."""
    sent: float
    """Seconds: the send's begin."""
    target: int
    received: float
    """Seconds: the wait's end."""
    run: str
    sequence: int
    boundary: int
    layer: int
    part: str
    waited_seconds: float
    """How long the target waited."""


def write_perfetto(path: Path, trace: Trace, *, max_events: int = MAX_EVENTS) -> str:
    """Write the file, compressed if its name ends with .gz.

    Args:
        path: an earlier file is replaced.
        trace: of all ranks.
        max_events: largest number of events; a larger trace is cut.

    Returns:
        What was cut; "" if nothing.

    Raises:
        OSError: the file system refused; an earlier file is unchanged.
    """
    with replaced(path) as file:
        return dump_perfetto(file, trace, path.name.endswith(".gz"), max_events=max_events)


def dump_perfetto(
    file: IO[bytes], trace: Trace, compressed: bool, *, max_events: int = MAX_EVENTS
) -> str:
    """Write to a file that is open; return what was cut."""
    events, cut = perfetto_events(trace, max_events)
    facts = {"origin": trace.origin, "cut": cut, **trace.facts}
    facts |= {
        f"clock of rank {rank.rank}": f"+- {rank.clock_error_seconds * 1e6:.1f} us"
        for rank in trace.ranks
        if rank.clock_error_seconds
    }
    # Perfetto shows these texts as they are, so they are texts.
    other = {
        name: value if isinstance(value, str) else _json(value) for name, value in facts.items()
    }
    if compressed:
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            packed.writelines(_lines(events, other))
    else:
        file.writelines(_lines(events, other))
    return cut


def perfetto_events(trace: Trace, max_events: int = MAX_EVENTS) -> tuple[list[Event], str]:
    """Return the events, in the order of time within a track, and what was cut to have at most so many."""
    arrows, most_spans = find_arrows(trace), max_events // 2
    while True:
        small = bounded(trace, most_spans, max_events // 16)
        events = [event for rank in small.ranks for event in _of_rank(rank)]
        if len(events) <= max_events * 3 // 4 or most_spans < _FEWEST_SPANS:
            break
        most_spans //= 2  # steps, chunks and reads are events as well
    cut = [small.cut] if small.cut else []
    ends = {rank.rank: rank.spans[-1].end if rank.spans else 0.0 for rank in small.ranks}
    inside = [a for a in arrows if a.sent < ends[a.source] and a.received < ends[a.target]]
    room = max(0, max_events - len(events)) // 2
    if len(inside) > room:
        cut.append(f"of {len(inside):,} arrows those of the {room:,} longest waits are there")
        inside = sorted(inside, key=lambda arrow: -arrow.waited_seconds)[:room]
    return [*_names(small), *events, *_flows(small, inside)], "; ".join(cut)


def find_arrows(trace: Trace) -> list[Arrow]:
    """Return what went from rank to rank inside of steps; a message with one end only is left out."""
    found = hand_overs(span_table(trace))
    names = [rank.rank for rank in trace.ranks]
    waited = found.wait_end - found.wait_begin
    columns = (
        *(found.sender, found.sent, found.receiver, found.wait_end),
        *(found.backward, found.sequence, found.boundary, found.layer, found.part, waited),
    )
    return [
        Arrow(
            *(names[sender], sent, names[receiver], received),
            *("backward" if backward else "forward", sequence, boundary, layer),
            found.parts[part],
            seconds,
        )
        for sender, sent, receiver, received, backward, sequence, boundary, layer, part, seconds in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def _of_rank(rank: RankTrace) -> Iterator[Event]:
    pid, tid = _pid(rank), _tid(rank)
    edges = sorted({time for mark in rank.steps for time in (mark.begin, mark.end)})
    pieces = list(_cut(rank.spans, edges))
    marks = [
        _complete(pid, tid, mark.begin, mark.end, f"step {mark.step}", "step", {"step": mark.step})
        for mark in rank.steps
    ]
    tasks = [
        _complete(pid, tid, begin, end, *_task_name(first))
        for begin, end, first in _tasks(pieces, edges)
    ]
    spans = [
        _complete(pid, tid, span.begin, span.end, *_span_name(span), _COLOURS.get(span.activity))
        for span in pieces
    ]
    # Of those that begin together the outer ones come first.
    yield from sorted((e for e in [*marks, *tasks, *spans] if e["dur"] > 0), key=lambda e: e["ts"])
    reads = [
        _complete(pid, tid + 1, span.begin, span.end, "read tokens", "data", _place(span))
        for span in rank.reads
    ]
    yield from (event for event in reads if event["dur"] > 0)
    for seconds, size in rank.memory:
        yield {
            "ph": "C",
            "pid": pid,
            "tid": tid,
            "ts": _us(seconds),
            "name": f"memory of rank {rank.rank}",
            "args": {"MiB": round(size / 2**20, 3)},
        }


def _cut(spans: Iterable[Span], edges: Sequence[float]) -> Iterator[Span]:
    """Yield spans that end where a step begins or ends: an activity may go on from one to the next."""
    for span in spans:
        begin = span.begin
        for edge in edges[bisect_right(edges, begin) : bisect_left(edges, span.end)]:
            yield span._replace(begin=begin, end=edge)
            begin = edge
        yield span._replace(begin=begin)


def _tasks(spans: Iterable[Span], edges: Sequence[float]) -> Iterator[tuple[float, float, Span]]:
    """Yield begin, end and first span of what a rank does of one chunk, one after the other."""
    first: Span | None = None
    end = 0.0
    for span in spans:
        same = first is not None and _key(first) == _key(span)
        if first is not None and (
            not same or bisect_right(edges, end) < bisect_right(edges, span.begin)
        ):
            yield first.begin, end, first
            first = None
        if first is None and span.run and span.chunk >= 0:
            first = span
        end = span.end
    if first is not None:
        yield first.begin, end, first


def _key(span: Span) -> tuple[str, int, int]:
    return span.run, span.sequence, span.chunk


def _task_name(span: Span) -> tuple[str, str, Event]:
    where = f"chunk {span.chunk}" if span.sequence <= 0 else f"chunk {span.sequence}.{span.chunk}"
    args = {"run": span.run, "sequence": span.sequence, "chunk": span.chunk}
    return f"{span.run} {where}", f"task,{span.run}", args


def _span_name(span: Span) -> tuple[str, str, Event]:
    name = f"{span.activity} {span.part}" if span.part else span.activity
    return name, ",".join(filter(None, (span.activity, span.run))), _place(span)


def _place(span: Span) -> Event:
    args: Event = {name: getattr(span, name) for name in ("run", "part") if getattr(span, name)}
    numbers = ((name, getattr(span, name)) for name in ("sequence", "chunk", "layer"))
    return args | {name: number for name, number in numbers if number >= 0}


def _complete(
    pid: int,
    tid: int,
    begin: float,
    end: float,
    name: str,
    category: str,
    args: Event,
    colour: str | None = None,
) -> Event:
    ts = _us(begin)
    event = {"ph": "X", "pid": pid, "tid": tid, "ts": ts, "dur": _us(end) - ts, "name": name}
    return event | {"cat": category, "args": args} | ({"cname": colour} if colour else {})


def _flows(trace: Trace, arrows: list[Arrow]) -> Iterator[Event]:
    """Yield begin and end of each arrow, both inside a span of their thread."""
    ranks = {rank.rank: rank for rank in trace.ranks}
    solid = {
        rank.rank: [(_us(s.begin), _us(s.end)) for s in rank.spans if _us(s.end) > _us(s.begin)]
        for rank in trace.ranks
    }
    begins = {rank: [begin for begin, _ in spans] for rank, spans in solid.items()}
    for number, arrow in enumerate(arrows, start=1):
        what = "gradient" if arrow.run == "backward" else "state"
        ends = []
        sent, received = _us(arrow.sent), _us(arrow.received)
        if arrow.waited_seconds > 0:
            received -= 1 / _TICKS  # inside the wait, not in what follows
        for phase, rank, ts in (("s", arrow.source, sent), ("f", arrow.target, received)):
            place = bisect_right(begins[rank], ts) - 1
            if place < 0:
                break
            begin, end = solid[rank][place]
            ends.append(
                {
                    "ph": phase,
                    "bp": "e",
                    "id": number,
                    "pid": _pid(ranks[rank]),
                    "tid": _tid(ranks[rank]),
                    "ts": max(begin, min(ts, end - 1 / _TICKS)),
                    "name": f"{arrow.part} {what}",
                    "cat": f"carry,{what}",
                    "args": {"boundary": arrow.boundary, "layer": arrow.layer},
                }
            )
        if len(ends) == 2:
            yield from ends


def _names(trace: Trace) -> Iterator[Event]:
    replicas = {rank.replica: _pid(rank) for rank in trace.ranks}
    for replica, pid in replicas.items():
        hosts = list(dict.fromkeys(r.host for r in trace.ranks if r.replica == replica and r.host))
        name = trace.origin if len(replicas) == 1 else f"{trace.origin}, replica {replica}"
        yield _meta(pid, 0, "process_name", name=name)
        yield _meta(pid, 0, "process_labels", labels=", ".join(hosts))
        yield _meta(pid, 0, "process_sort_index", sort_index=replica)
    for rank in trace.ranks:
        pid, tid = _pid(rank), _tid(rank)
        place = ", ".join(filter(None, (rank.host, rank.device)))
        yield _meta(pid, tid, "thread_name", name=f"rank {rank.rank} ({place})")
        yield _meta(pid, tid, "thread_sort_index", sort_index=tid)
        if rank.reads:
            yield _meta(pid, tid + 1, "thread_name", name=f"rank {rank.rank}: reader")
            yield _meta(pid, tid + 1, "thread_sort_index", sort_index=tid + 1)


def _meta(pid: int, tid: int, kind: str, **args: Any) -> Event:
    return {"ph": "M", "pid": pid, "tid": tid, "ts": 0, "name": kind, "args": args}


def _lines(events: Iterable[Event], other: dict[str, str]) -> Iterator[bytes]:
    yield f'{{"displayTimeUnit":"ms","otherData":{_json(other)},"traceEvents":[\n'.encode()
    comma = ""
    for event in events:
        yield f"{comma}{_json(event)}".encode()
        comma = ",\n"
    yield b"\n]}\n"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)


def _us(seconds: float) -> float:
    return round(seconds * 1e6 * _TICKS) / _TICKS


def _pid(rank: RankTrace) -> int:
    return rank.replica + 1


def _tid(rank: RankTrace) -> int:
    return 2 * rank.rank + 1
