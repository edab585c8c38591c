"""One aligned line per step; on a terminal also a progress bar."""

import math
import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TextIO

from tttscale.observe import terminal
from tttscale.observe.guard import Guard, lead_nowhere
from tttscale.observe.terminal import Terminal, is_watched, takes_more
from tttscale.scrub import scrubbed

_HEADER_EVERY = 25
_ETA_WINDOW = 20
_MISSING = "-"


class Column(NamedTuple):
    """A column of the step line."""

    title: str
    width: int
    value: Callable[[Mapping[str, Any]], str]


def human(value: float, base: int = 1000) -> str:
    """Format three digits and a unit: 12.3k, or 1.50Gi with base 1024."""
    if not math.isfinite(value):
        return str(value)
    units = ["", "k", "M", "G", "T", "P"] if base == 1000 else ["", "Ki", "Mi", "Gi", "Ti", "Pi"]
    power = 0
    while abs(value) >= base * 0.9995 and power < len(units) - 1:
        value /= base
        power += 1
    if power == 0:
        return f"{value:.3g}"
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{decimals}f}{units[power]}"


def duration(seconds: float) -> str:
    """Format a length of time in its two largest units: 45s, 3m20s, 5h03m, 2d04h."""
    if not math.isfinite(seconds):
        return _MISSING
    whole = round(seconds)
    for size, unit, part, small in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{small}"
    return f"{whole}s"


def _field(key: str, show: Callable[[float], str]) -> Callable[[Mapping[str, Any]], str]:
    def value(record: Mapping[str, Any]) -> str:
        found = record.get(key)
        return _MISSING if found is None else show(float(found))

    return value


def _slowest(record: Mapping[str, Any]) -> str:
    """The rank that computes slowest, and its time over the median of the others."""
    rank, factor = record.get("slowest_rank"), record.get("slowest_factor")
    return _MISSING if rank is None or not factor else f"{rank}: {float(factor):.2f}x"


def _share(key: str) -> Callable[[Mapping[str, Any]], str]:
    def value(record: Mapping[str, Any]) -> str:
        part, whole = record.get(key), record.get("step_seconds")
        return _MISSING if part is None or not whole else f"{100 * float(part) / float(whole):.1f}%"

    return value


_COLUMNS = (
    Column("loss nats", 9, _field("loss", lambda v: f"{v:.4f}")),
    Column("bits/tok", 8, _field("loss", lambda v: f"{v / math.log(2):.3f}")),
    Column("grad norm", 9, _field("grad_norm", lambda v: f"{v:.3g}")),
    Column("lr", 8, _field("lr", lambda v: f"{v:.2e}")),
    Column("tokens/s", 8, _field("tokens_per_second", human)),
    Column("s/step", 7, _field("step_seconds", lambda v: f"{v:.3g}")),
    Column("peak mem", 8, _field("peak_memory_bytes", lambda v: human(v, 1024) + "B")),
    Column("bubble", 6, _field("bubble_fraction", lambda v: f"{100 * v:.1f}%")),
    Column("comm", 6, _share("exposed_comm_seconds")),
    Column("data", 6, _share("data_seconds")),
    Column("slowest", 9, _slowest),
    Column("MFU", 5, _field("mfu", lambda v: f"{100 * v:.1f}%")),
)


class Console:
    """Prints a run's progress: aligned lines with units, a header now and then, the time left.

    When its output is closed (`| head`), it says so once and is quiet from then on. While a reader is only
    slow, lines are left out and counted.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None) -> None:
        self._total = total_steps
        self._stream = stream or sys.stdout
        self._recent: deque[float] = deque(maxlen=_ETA_WINDOW)
        self._lines = 0
        self._left_out = 0
        self._bar: _Bar | None = None
        self._guard = Guard("the console is quiet", "and its metrics are in metrics.jsonl")
        with self._guarded():
            self._bar = _Bar(total_steps, self._stream) if is_watched(self._stream) else None

    def step(self, record: Mapping[str, Any]) -> None:
        """Print one step's record (the keys of `metrics.jsonl`; missing ones show as a dash)."""
        with self._guarded():
            if record.get("step_seconds") is not None:
                self._recent.append(float(record["step_seconds"]))
            if self._lines % _HEADER_EVERY == 0:
                self._write(self._header())
            self._lines += 1
            self._write(self._line(record))
            if self._bar and self._left_out == 0:
                self._bar.advance_to(int(record["step"]), self._time_left(record))

    def log(self, text: str) -> None:
        """Print a line between the step lines."""
        with self._guarded():
            self._write(scrubbed(text))

    def close(self) -> None:
        """Remove the progress bar; closing twice is fine."""
        with self._guarded():
            if self._bar and self._is_writable():
                self._bar.stop()
        self._bar = None

    def _header(self) -> str:
        titles = [f"{'step':>{self._step_width()}}", *(f"{c.title:>{c.width}}" for c in _COLUMNS)]
        return "  ".join([*titles, f"{'ETA':>7}"])

    def _line(self, record: Mapping[str, Any]) -> str:
        step = f"{record['step']}/{self._total}"
        cells = [f"{step:>{self._step_width()}}"]
        cells += [f"{column.value(record):>{column.width}}" for column in _COLUMNS]
        cells.append(f"{self._time_left(record):>7}")
        heldout = record.get("heldout_loss")
        if heldout is not None:
            cells.append(f"held-out {float(heldout):.4f}")
        return "  ".join(cells)

    def _step_width(self) -> int:
        return max(4, 2 * len(str(self._total)) + 1)

    def _time_left(self, record: Mapping[str, Any]) -> str:
        if not self._recent:
            return _MISSING
        # The median: the first step compiles kernels, and some steps evaluate.
        return duration((self._total - int(record["step"])) * statistics.median(self._recent))

    def _write(self, text: str) -> None:
        if not self._guard.is_on:
            return
        if not self._is_writable():
            self._left_out += 1
            return
        if self._left_out:
            text = f"({self._left_out} lines left out while they were not read)\n{text}"
            self._left_out = 0
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        if self._bar:
            self._bar.print(text)
        else:
            print(text, file=self._stream, flush=True)

    def _is_writable(self) -> bool:
        """Return whether a line can be written without waiting, to a pipe or terminal that may be full."""
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError, AttributeError):
            return True  # in memory
        return takes_more(descriptor, 0 if self._left_out else terminal.PATIENCE_SECONDS)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        was_on = self._guard.is_on
        with self._guard():
            yield
        if was_on and not self._guard.is_on:
            with suppress(Exception, SystemExit):  # the bar has replaced stdout and stderr
                if self._bar:
                    self._bar.stop()
            self._bar = None
            lead_nowhere(self._stream)


class _Bar:
    """A rich progress bar below the lines."""

    def __init__(self, total: int, stream: TextIO) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        # No thread redraws it: the thread would wait for a stopped terminal, and the run for the thread.
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("ETA {task.fields[eta]}"))
        self._terminal: TextIO = stream
        with suppress(OSError, ValueError):  # in memory
            self._terminal = Terminal(stream)  # type: ignore[assignment]
        console = RichConsole(file=self._terminal)
        self._progress = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._task = self._progress.add_task("train", total=total, eta=_MISSING)
        self._progress.start()

    def advance_to(self, step: int, eta: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step, eta=eta, refresh=True)

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Remove the bar."""
        self._progress.stop()
        if isinstance(self._terminal, Terminal):
            self._terminal.close()
