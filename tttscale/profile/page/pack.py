"""A trace for the page: columns of integers, compressed, in base64."""

import base64
import math
import zlib
from typing import Any

import numpy as np

from tttscale.observe.perfetto import Arrow, find_arrows
from tttscale.observe.spans import RankTrace, Span, Trace
from tttscale.observe.trace_bounds import bounded

MAX_SPANS = 400_000
"""About 2 MB of the page."""
MAX_ARROWS = 60_000
MAX_SAMPLES = 30_000
_SHORTEST_TICK = 1e-8
_MOST_TICKS = 1 << 30
"""Times are int32, in ticks from the begin of the trace."""
_Kind = tuple[str, str, str]


def packed(trace: Trace, *, max_spans: int = MAX_SPANS) -> dict[str, Any]:
    """Return what the page's decode.js reads.

    Args:
        trace: of one clock; its first span need not begin at 0.
        max_spans: more are joined or left out, and `cut` says so.
    """
    arrows = find_arrows(trace)
    small = bounded(trace, max_spans, MAX_SAMPLES)
    spans = [span for rank in small.ranks for span in (*rank.spans, *rank.reads)]
    first = min((span.begin for span in spans), default=0.0)
    last = max((span.end for span in spans), default=0.0)
    tick = max(_SHORTEST_TICK, (last - first) / _MOST_TICKS)
    cut = [small.cut] if small.cut else []
    arrows = [arrow for arrow in arrows if arrow.received <= last]
    if len(arrows) > MAX_ARROWS:
        cut.append(f"of {len(arrows):,} arrows those of the {MAX_ARROWS:,} longest waits are there")
        arrows = sorted(arrows, key=lambda arrow: -arrow.waited_seconds)[:MAX_ARROWS]
    clock = _Clock(first, tick)
    kinds: dict[_Kind, int] = {}
    columns = _Columns()
    ranks = [_rank(rank, clock, kinds, columns) for rank in small.ranks]
    _add_arrows(arrows, clock, small, kinds, columns)
    return {
        "origin": trace.origin,
        "cut": "; ".join(cut),
        "tick_seconds": tick,
        "ticks": clock.ticks(last),
        "ranks": ranks,
        "arrows": len(arrows),
        "kinds": [list(kind) for kind in kinds],
        "columns": columns.sizes,
        "data": columns.base64(),
    }


class _Clock:
    """Whole ticks since the trace began."""

    def __init__(self, first: float, tick_seconds: float) -> None:
        self._first, self._tick = first, tick_seconds

    def ticks(self, seconds: float) -> int:
        """Return the nearest tick."""
        return round((seconds - self._first) / self._tick)


class _Columns:
    """int32 columns, one after the other; of each the lowest bytes come first, which compresses well."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._data: list[bytes] = []

    def add(self, values: list[int], *, differences: bool = False) -> None:
        """Add a column.

        Args:
            values: in the range of int32.
            differences: store each value's difference from the one before it.
        """
        column = np.asarray(values, dtype=np.int32)
        if differences:
            column = np.diff(column, prepend=np.int32(0))
        self.sizes.append(len(column))
        planes = np.ascontiguousarray(column.astype("<i4")).view(np.uint8).reshape(-1, 4).T
        self._data.append(planes.tobytes())

    def base64(self) -> str:
        """Return all columns."""
        return base64.b64encode(zlib.compress(b"".join(self._data), 7)).decode()


def _rank(
    rank: RankTrace, clock: _Clock, kinds: dict[_Kind, int], columns: _Columns
) -> dict[str, Any]:
    """Add a rank's columns; decode.js takes them in the same order."""
    for spans in (rank.spans, rank.reads):
        begins = [clock.ticks(span.begin) for span in spans]
        ends = [clock.ticks(span.end) for span in spans]
        before = [0, *ends[:-1]]
        columns.add([begin - end for begin, end in zip(begins, before[: len(begins)], strict=True)])
        columns.add([end - begin for begin, end in zip(begins, ends, strict=True)])
        columns.add([_kind(span, kinds) for span in spans])
        columns.add([span.sequence for span in spans], differences=True)
        columns.add([span.chunk for span in spans], differences=True)
        columns.add([span.layer for span in spans], differences=True)
    columns.add([clock.ticks(seconds) for seconds, _ in rank.memory], differences=True)
    columns.add([math.ceil(size / 1024) for _, size in rank.memory], differences=True)
    return {
        "rank": rank.rank,
        "replica": rank.replica,
        "host": rank.host,
        "device": rank.device,
        "steps": [[m.step, clock.ticks(m.begin), clock.ticks(m.end)] for m in rank.steps],
    }


def _add_arrows(
    arrows: list[Arrow], clock: _Clock, trace: Trace, kinds: dict[_Kind, int], columns: _Columns
) -> None:
    place = {rank.rank: i for i, rank in enumerate(trace.ranks)}
    arrows = sorted(arrows, key=lambda arrow: arrow.sent)
    columns.add([place[arrow.source] for arrow in arrows])
    columns.add([place[arrow.target] for arrow in arrows])
    columns.add([clock.ticks(arrow.sent) for arrow in arrows], differences=True)
    columns.add([clock.ticks(arrow.received) - clock.ticks(arrow.sent) for arrow in arrows])
    columns.add([kinds.setdefault(("wait", a.run, a.part), len(kinds)) for a in arrows])
    columns.add([arrow.sequence for arrow in arrows], differences=True)
    columns.add([arrow.boundary for arrow in arrows], differences=True)
    columns.add([arrow.layer for arrow in arrows], differences=True)


def _kind(span: Span, kinds: dict[_Kind, int]) -> int:
    return kinds.setdefault((span.activity, span.run, span.part), len(kinds))
