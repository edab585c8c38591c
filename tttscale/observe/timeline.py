"""A rank's timeline: how long it was held up in every step; and, while it traces, every single activity.

It implements `tttscale.scan.timeline.Timeline`. On a CPU the host's monotonic clock says when an activity
begins. On a GPU the host is far ahead of the device, so events on the stream say it; they are read after the
step, and nothing waits for them inside it.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from tttscale.observe.spans import Span, StepMark
from tttscale.supervise.page import Page

_ON_DEVICE = frozenset({"wait", "flush"})
"""Activities that hold up the device, whatever it is."""
_ON_HOST = frozenset({"data", "idle", "reduce", "gather"})
"""Activities at whose begin and end the host has waited for the device, or in which the host waits."""
_ON_CPU = _ON_DEVICE | _ON_HOST | {"send"}
"""On a CPU host and device are one. A GPU does not wait while the host starts to send."""
_SAMPLED = frozenset({"data", "head", "flush", "optimizer"})
"""Memory is asked for when these begin: before a chunk, and with all its activations in memory."""
_MOST_SPANS = 2_000_000


class Held(NamedTuple):
    """Seconds for which something held this rank up in a step."""

    ramp: float = 0.0
    """Waits for carries and their gradients in its first chunk of each sweep, until the pipeline runs."""
    starved: float = 0.0
    """Waits for carries and their gradients in all other chunks."""
    send: float = 0.0
    """Handing messages over, and waiting at the end of a sweep until they have left."""
    data: float = 0.0
    """Waiting for tokens."""
    idle: float = 0.0
    """Waiting for the ranks that are still in their backward sweep."""
    reduce: float = 0.0
    """Summing the parameters' gradients over the ranks."""
    gather: float = 0.0
    """Collecting the new parameters."""

    @property
    def carries(self) -> float:
        """All that the exchange of carries and their gradients cost."""
        return self.ramp + self.starved + self.send


_FIELDS = {"flush": "send"}
"""Activity -> field of `Held`, where it is not called the same; a wait's depends on the chunk."""


class Timeline:
    """What this rank does, and since when."""

    def __init__(self, device: torch.device) -> None:
        """Start with nothing; sums are always kept, a trace only from `start_trace` to `end_trace`."""
        self._clock: _HostClock | _StreamClock = (
            _StreamClock() if device.type == "cuda" else _HostClock()
        )
        self._page = Page.own
        self._first: tuple[int, int] | None = None
        """Sequence and chunk that this sweep began with."""
        self._open: str | None = None
        self._trace: list[tuple[Any, ...]] | None = None
        self._reads: list[Span] = []
        self._steps: list[StepMark] = []
        self._memory: list[tuple[float, int]] = []
        self._bytes_in_use: Callable[[], int] | None = None
        self.traces = False
        """Every activity is taken down, and not only those that hold the rank up."""
        self.cut = False
        """The trace became too long, and the rest was left out."""

    def begin(
        self, activity: str, run: Any = None, task: Any = None, layer: int = -1, part: str = ""
    ) -> None:
        """End the activity so far and begin this one."""
        if self._page is not None:
            self._page.beat(activity, run, task, layer)
        if self.traces:
            self._take_down(activity, run, task, layer, part)
        if self._first is None and task is not None:
            self._first = task.sequence, task.chunk
        counted = activity in self._clock.counted
        if self._open is not None:
            self._clock.end(self._open)
            self._open = None
        if counted:
            self._open = self._field(activity, task)
            self._clock.begin(activity)
        if activity == "flush":
            self._first = None

    def _field(self, activity: str, task: Any) -> str:
        if activity == "wait":
            return "ramp" if (task.sequence, task.chunk) == self._first else "starved"
        return _FIELDS.get(activity, activity)

    def take(self) -> Held:
        """Return what was counted since this was last called; waits for the device if that waited."""
        sums = self._clock.take()
        self._first = None
        return Held(**sums)

    # ---- a trace -------------------------------------------------------------------------------

    def start_trace(self, bytes_in_use: Callable[[], int] | None = None) -> None:
        """Take down every activity from now on.

        Args:
            bytes_in_use: this rank's memory, asked for a few times per chunk.
        """
        self._clock.synchronize()
        self._trace, self._bytes_in_use = [], bytes_in_use
        self._reads, self._steps, self._memory = [], [], []
        self.traces, self.cut = True, False

    def mark_step(self, step: int, began: float, ended: float) -> None:
        """Note a step's begin and end, `time.perf_counter` seconds."""
        if self.traces:
            self._steps.append(StepMark(step, began, ended))

    def note_read(self, began: float, ended: float, sequence: int, chunk: int) -> None:
        """Note a read of tokens by the reader's thread, `time.perf_counter` seconds."""
        if self.traces:
            self._reads.append(Span(began, ended, "read", "", sequence, chunk))

    def end_trace(
        self,
    ) -> tuple[list[Span], list[Span], list[StepMark], list[tuple[float, int]]]:
        """Stop, and return activities, reads, steps and memory; `time.perf_counter` seconds."""
        assert self._trace is not None, "no trace was started"
        self._take_down("other", None, None, -1, "")
        marks, self._trace, self.traces = self._trace, None, False
        times = self._clock.seconds([mark[0] for mark in marks])
        spans = []
        for (_, activity, run, task, layer, part), begin, end in zip(
            marks, times, times[1:], strict=False
        ):
            sequence, chunk = (-1, -1) if task is None else (task.sequence, task.chunk)
            name = "" if run is None else str(run)
            spans.append(Span(begin, end, str(activity), name, sequence, chunk, layer, part))
        return spans, self._reads, self._steps, self._memory

    def _take_down(self, activity: str, run: Any, task: Any, layer: int, part: str) -> None:
        assert self._trace is not None
        if len(self._trace) >= _MOST_SPANS:
            self.cut = True
            return
        self._trace.append((self._clock.now(), activity, run, task, layer, part))
        if self._bytes_in_use is not None and activity in _SAMPLED:
            self._memory.append((time.perf_counter(), self._bytes_in_use()))


class _HostClock:
    """Everything happens when the host does it."""

    counted = _ON_CPU

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._since = 0.0

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.perf_counter()

    def begin(self, activity: str) -> None:
        """Begin an activity that is counted."""
        self._since = time.perf_counter()

    def end(self, field: str) -> None:
        """End it, and add its seconds to a sum."""
        self._sums[field] = self._sums.get(field, 0.0) + time.perf_counter() - self._since

    def take(self) -> dict[str, float]:
        """Return the sums, and start again at zero."""
        sums, self._sums = self._sums, {}
        return sums

    def synchronize(self) -> None:
        """Host and device are one."""

    def seconds(self, marks: list[Any]) -> list[float]:
        """Turn marks of `now` into seconds of the host's clock."""
        return marks


class _StreamClock:
    """Most things happen when the stream comes to them, long after the host."""

    counted = _ON_DEVICE | _ON_HOST

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._pairs: list[tuple[str, Any, Any]] = []
        self._since: float | torch.cuda.Event = 0.0
        self._base: tuple[float, torch.cuda.Event] | None = None

    def now(self) -> torch.cuda.Event:
        """Record an event on the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def begin(self, activity: str) -> None:
        """Begin an activity that is counted."""
        self._since = self.now() if activity in _ON_DEVICE else time.perf_counter()

    def end(self, field: str) -> None:
        """End it, and add its seconds to a sum."""
        if isinstance(self._since, float):
            self._sums[field] = self._sums.get(field, 0.0) + time.perf_counter() - self._since
        else:
            self._pairs.append((field, self._since, self.now()))

    def take(self) -> dict[str, float]:
        """Return the sums, and start again at zero."""
        if self._pairs:
            self._pairs[-1][2].synchronize()
        for field, before, after in self._pairs:
            self._sums[field] = self._sums.get(field, 0.0) + before.elapsed_time(after) / 1e3
        sums, self._sums, self._pairs = self._sums, {}, []
        return sums

    def synchronize(self) -> None:
        """Say what the host's clock is when the stream is at an event."""
        event = self.now()
        event.synchronize()
        self._base = time.perf_counter(), event

    def seconds(self, marks: list[Any]) -> list[float]:
        """Turn marks of `now` into seconds of the host's clock."""
        assert self._base is not None
        if marks:
            marks[-1].synchronize()
        began, event = self._base
        return [began + event.elapsed_time(mark) / 1e3 for mark in marks]
