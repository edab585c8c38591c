"""All spans of a trace as arrays, cut into optimizer steps: what the analysis of an overlap computes with."""

from dataclasses import dataclass, replace

import numpy as np

from tttscale.observe.spans import StepMark, Trace

BETWEEN = -1
"""Step of a span that lies between optimizer steps."""
RUNS = ("", "forward", "recompute", "backward")
FORWARD, RECOMPUTE, BACKWARD = 1, 2, 3
"""Codes of runs, as in `RUNS`."""
COMPUTE = ("embed", "project", "advance", "readout", "finish", "head")
"""Activities in which a rank does the work of its chunks."""


@dataclass(frozen=True)
class StepBounds:
    """When an optimizer step began on the first rank and ended on the last one."""

    step: int
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


@dataclass(frozen=True)
class SpanTable:
    """Spans of all ranks: one entry of every array for each, in order of ranks and of time."""

    steps: list[StepBounds]
    rank: np.ndarray
    """Index into the trace's ranks."""
    replica: np.ndarray
    step: np.ndarray
    """Index into `steps`; `BETWEEN` outside of them."""
    begin: np.ndarray
    end: np.ndarray
    """Seconds, cut to the rank's own begin and end of the step."""
    activity: np.ndarray
    """Code: index into `activities`."""
    run: np.ndarray
    """Code: index into `RUNS`."""
    sequence: np.ndarray
    chunk: np.ndarray
    layer: np.ndarray
    part: np.ndarray
    """Code: index into `parts`."""
    activities: list[str]
    parts: list[str]

    @property
    def seconds(self) -> np.ndarray:
        """How long each span took."""
        return self.end - self.begin

    @property
    def boundary(self) -> np.ndarray:
        """Which boundary the part of a wait or send crosses, as `Span.boundary`."""
        from_left = (self.run == BACKWARD) != self.of("wait")
        return self.chunk - from_left

    def of(self, *activities: str) -> np.ndarray:
        """Which spans are of one of these activities."""
        codes = [self.activities.index(name) for name in activities if name in self.activities]
        return np.isin(self.activity, codes)

    def take(self, chosen: np.ndarray) -> "SpanTable":
        """Return a table of some of the spans."""
        columns = {
            name: value[chosen]
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        return replace(self, **columns)


def span_table(trace: Trace) -> SpanTable:
    """Lay a trace out in arrays. A trace without step marks is one step."""
    marks = [rank.steps for rank in trace.ranks]
    if not any(marks):
        spans = [span for rank in trace.ranks for span in rank.spans]
        begin = min((span.begin for span in spans), default=0.0)
        end = max((span.end for span in spans), default=0.0)
        marks = [[StepMark(0, begin, end)]] * len(trace.ranks)
    steps = _bounds(marks)
    numbers = {bounds.step: index for index, bounds in enumerate(steps)}
    activities: dict[str, int] = {}
    parts: dict[str, int] = {}
    runs = {name: code for code, name in enumerate(RUNS)}
    columns: list[tuple[np.ndarray, ...]] = []
    for index, rank in enumerate(trace.ranks):
        if not rank.spans:
            continue
        begins, ends, names, run_names, sequences, chunks, layers, part_names = zip(
            *rank.spans, strict=True
        )
        count = len(begins)
        ends = np.maximum.accumulate(np.array(ends, float))
        begins = np.array(begins, float)
        begins[1:] = np.maximum(begins[1:], ends[:-1])  # spans of a rank never overlap
        step = np.full(count, BETWEEN)
        for mark in marks[index]:
            inside = slice(
                np.searchsorted(ends, mark.begin, "right"),
                np.searchsorted(begins, mark.end, "left"),
            )
            step[inside] = numbers[mark.step]
            begins[inside] = begins[inside].clip(mark.begin, mark.end)
            ends[inside] = ends[inside].clip(mark.begin, mark.end)
        columns.append(
            (
                np.full(count, index),
                np.full(count, rank.replica),
                step,
                begins,
                ends,
                np.array([activities.setdefault(name, len(activities)) for name in names]),
                np.array([runs[name] for name in run_names]),
                np.array(sequences),
                np.array(chunks),
                np.array(layers),
                np.array([parts.setdefault(name, len(parts)) for name in part_names]),
            )
        )
    empty = tuple(np.zeros(0, int if i not in (3, 4) else float) for i in range(11))
    whole = [np.concatenate(column) for column in zip(*(columns or [empty]), strict=True)]
    return SpanTable(steps, *whole, activities=list(activities), parts=list(parts))


def _bounds(marks: list[list[StepMark]]) -> list[StepBounds]:
    found: dict[int, tuple[float, float]] = {}
    for step, begin, end in (mark for rank in marks for mark in rank):
        first, last = found.get(step, (begin, end))
        found[step] = min(first, begin), max(last, end)
    return [StepBounds(step, *found[step]) for step in sorted(found)]


def key_of(*columns: np.ndarray) -> np.ndarray:
    """One whole number for each row, equal where all columns (of whole numbers) are."""
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        low = int(column.min(initial=0))
        key = key * (int(column.max(initial=0)) - low + 1) + (column - low)
    return key


def medians(groups: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The (lower) median of each group's values; NaN for a group without any.

    Args:
        groups: of each value, 0 .. count - 1.
        values: any numbers.
        count: how many groups.
    """
    order = np.lexsort((values, groups))
    sizes = np.bincount(groups, minlength=count)
    first = np.cumsum(sizes) - sizes
    found = np.full(count, np.nan)
    some = sizes > 0
    found[some] = values[order][(first + (sizes - 1) // 2)[some]]
    return found


def typical_sum(units: np.ndarray, values: np.ndarray) -> float:
    """The median, over units, of the sum of a unit's values; 0 without any.

    Args:
        units: of each value: any whole numbers.
        values: any numbers.
    """
    found = np.bincount(np.unique(units, return_inverse=True)[1], values)
    return float(np.median(found)) if len(found) else 0.0
