"""Signs of life: what a rank's page says, with durations as its own supervisor's clock saw them.

Hosts do not share a clock, so a time never leaves its host, only how long ago something was. Time in which
the supervisor itself did not run (a host that was suspended, a job that was stopped as a whole) does not
count.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tttscale.reading import read_bytes
from tttscale.supervise.page import ACTIVITIES, RUNS, Beat, Page, Phase

LONGEST_LOOK_SECONDS = 1.0
"""Between two looks a supervisor believes that it has watched for so long, and no longer."""
_PROC = Path("/proc")
_STAT_BYTES = 4096
_LARGEST = 2.0**53
_ALIVE_BYTES = 64 * 1024
"""Outside of steps a rank that reads or writes so much makes progress."""


class Kind:
    """What is measured apart from each other; every other kind is the name of a phase."""

    FIRST = "first step"
    STEP = Phase.STEP.value


@dataclass(frozen=True)
class Process:
    """What the system knows of a process."""

    stopped: bool = False
    """By a signal or a debugger."""
    cpu_seconds: float = 0.0
    """So much it has computed, all threads together."""
    io_bytes: int = 0
    """So much it has read and written, all threads together."""

    @classmethod
    def of(cls, pid: int, proc: Path = _PROC) -> "Process":
        """Ask the system; as if it had done nothing if it is gone."""
        try:
            stat = read_bytes(proc / str(pid) / "stat", _STAT_BYTES)
            # The name in brackets may hold anything, also brackets.
            words = stat.rpartition(b")")[2].split()
            ticks = int(words[11]) + int(words[12])
        except (OSError, ValueError, IndexError):
            return cls()
        seconds = ticks / os.sysconf("SC_CLK_TCK")
        return cls(words[0] in (b"T", b"t"), seconds, _io_bytes(proc / str(pid) / "io"))


def _io_bytes(path: Path) -> int:
    """Return the bytes read and written; 0 where the system does not say."""
    try:
        lines = read_bytes(path, _STAT_BYTES).splitlines()
        return sum(int(line.split()[1]) for line in lines if line[:6] in (b"rchar:", b"wchar:"))
    except (OSError, ValueError, IndexError):
        return 0


@dataclass(frozen=True)
class Sign:
    """A sign of life."""

    beat: Beat
    """What the page said last; its times are seconds before now, so below zero."""
    stopped: bool = False
    """The process is stopped (SIGSTOP)."""
    first: bool = False
    """It is in the first step of this start."""
    cpu_share: float = 0.0
    """CPU seconds in each second since the rank's last change of activity, all threads together."""
    failing: bool = False
    """The rank has said a cause and is about to end."""
    busy: Mapping[str, float] = field(default_factory=dict)
    """Kind -> seconds of the longest activity so far that was no wait."""
    whole: Mapping[str, float] = field(default_factory=dict)
    """Kind -> seconds of the longest phase so far."""

    @property
    def silent_seconds(self) -> float:
        """Seconds since the rank's last change of activity."""
        return -self.beat.at

    @property
    def waits(self) -> bool:
        """Whether it may wait for other ranks: it is not stopped, and not about to end."""
        return self.beat.waits and not self.stopped and not self.failing

    @property
    def kind(self) -> str:
        """Under what its durations are counted."""
        return Kind.FIRST if self.first else self.beat.phase.value

    def message(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "beat": [getattr(self.beat, f.name) for f in fields(Beat)],
            "is": [self.stopped, self.first, self.failing],
            "cpu": self.cpu_share,
            "busy": dict(self.busy),
            "whole": dict(self.whole),
        }

    @classmethod
    def of(cls, message: Any) -> "Sign":
        """Read a message.

        Raises:
            ValueError: it is none.
        """
        try:
            stopped, first, failing = map(bool, message["is"])
            busy, whole = (_durations(message[name]) for name in ("busy", "whole"))
            cpu_share = _seconds(message["cpu"])
            return cls(beat_of(message["beat"]), stopped, first, cpu_share, failing, busy, whole)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no sign of life: {error}") from None


def beat_of(values: Any) -> Beat:
    """Read a beat from the list that `Sign.message` makes of it.

    Raises:
        ValueError: it is none.
    """
    try:
        count, at, step, longest, phase, phase_at, activity, run, *place, swept = values
        sequence, chunk, layer = map(_whole, place)
        if activity not in ACTIVITIES or run not in RUNS:
            raise ValueError("no activity")
        return Beat(
            _whole(count),
            _seconds(at),
            _whole(step),
            _seconds(longest),
            Phase(phase),
            _seconds(phase_at),
            activity,
            run,
            sequence,
            chunk,
            layer,
            bool(swept),
        )
    except TypeError as error:
        raise ValueError(f"no beat: {error}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        raise ValueError("no whole number")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise ValueError("no number of seconds")
    return float(value)


def _durations(values: Any) -> dict[str, float]:
    known = {Kind.FIRST, *map(str, Phase)}
    return {name: _seconds(seconds) for name, seconds in values.items() if name in known}


class WatchedClock:
    """Counts the seconds in which this process has run, if it is called again and again.

    Between two calls at most LONGEST_LOOK_SECONDS count: if more have gone by, the process was stopped, and
    so may all others have been.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last, self._watched = clock(), 0.0

    def __call__(self) -> float:
        """Return the seconds so far."""
        now = self._clock()
        self._watched += min(max(0.0, now - self._last), LONGEST_LOOK_SECONDS)
        self._last = now
        return self._watched


class Watch:
    """Looks at a page again and again, and measures by the clock of who looks."""

    def __init__(
        self,
        page: Page,
        process: Callable[[], Process] = Process,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            page: of the rank.
            process: says what the system knows of it.
            clock: the supervisor's, in seconds (`WatchedClock`).
        """
        self._page, self._process, self._clock = page, process, clock
        self._beat = page.read()
        self._changed = self._entered = clock()
        self._cpu_seconds = 0.0
        """When the activity began."""
        self._io_bytes = 0
        """At the last sign of life."""
        self._first: int | None = None
        """The step that this start began with."""
        self._was_stopped = False
        self._busy: dict[str, float] = {}
        self._whole: dict[str, float] = {}

    def look(self) -> Sign:
        """Read the page and return what it says."""
        now = self._clock()
        beat, before, process = self._page.read(), self._beat, self._process()
        if beat.count != before.count:
            self._note(before, now)
            self._changed, self._was_stopped = now, False
            self._cpu_seconds, self._io_bytes = process.cpu_seconds, process.io_bytes
        elif beat.phase != Phase.STEP and process.io_bytes - self._io_bytes >= _ALIVE_BYTES:
            # Imports, checkpoints and final weights may take as long as the disk does.
            self._changed, self._io_bytes = now, process.io_bytes
        self._was_stopped |= process.stopped
        if beat.phase_at != before.phase_at:
            kind = self._kind(before)
            longest = max(self._whole.get(kind, 0.0), now - self._entered)
            self._whole[kind] = round(longest, 1)
            self._entered = now
        if beat.phase == Phase.STEP and self._first is None:
            self._first = beat.step
        self._beat = beat
        return Sign(
            replace(
                beat,
                at=round(self._changed - now, 3),
                phase_at=round(self._entered - now, 3),
            ),
            process.stopped,
            self._kind(beat) == Kind.FIRST,
            round((process.cpu_seconds - self._cpu_seconds) / max(1.0, now - self._changed), 2),
            bool(self._page.text("cause")),
            dict(self._busy),
            dict(self._whole),
        )

    def _kind(self, beat: Beat) -> str:
        first = beat.phase == Phase.STEP and beat.step == self._first
        return Kind.FIRST if first else beat.phase.value

    def _note(self, before: Beat, now: float) -> None:
        """Measure the activity that has ended; not the time in which the rank was stopped."""
        if before.waits or self._was_stopped:
            return
        kind = self._kind(before)
        longest = max(self._busy.get(kind, 0.0), now - self._changed)
        self._busy[kind] = round(longest, 1)
