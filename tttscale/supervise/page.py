"""A page of memory that a rank and its supervisor share: what the rank does, since when, and why it ended.

The rank writes it at every change of activity, in about a microsecond and without a system call. Its
supervisor is another process, so it can read the page whatever became of the rank: stopped, in an endless
loop, in a library that holds Python's lock, or killed.
"""

import mmap
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_BYTES = 16 * 1024
_FIELDS = struct.Struct("<QdqddBBBBiii")
"""beats, seconds, step, longest busy, seconds of the phase; phase, activity, run, swept; sequence, chunk,
layer."""
_TEXTS = {
    "cause": (1024, 7168),
    "folder": (8192, 4096),
    "hub": (12288, 2048),
    "watch": (14336, 2048),
}
"""Text -> where it lies, and its room in bytes with the two bytes of its length."""
_READS = 100


class Phase(StrEnum):
    """The part of a job that a rank is in."""

    START = "start-up"
    """Imports and reading the configuration, before it looks for other ranks."""
    MEET = "meeting"
    """Waiting for the other ranks, connecting to them."""
    BUILD = "set-up"
    """Building the model, optimizer and records; reading a checkpoint; compiling."""
    STEP = "step"
    EVALUATE = "evaluation"
    CHECKPOINT = "checkpoint"
    RECORD = "records"
    CLOSE = "closing"
    """Final weights, plots, and leaving the job."""


_PHASES = list(Phase)
RUNS = ["", "forward", "recompute", "backward"]
ACTIVITIES = [
    *("other", "data", "embed", "project", "wait", "advance", "send", "readout", "finish", "head"),
    *("flush", "idle", "reduce", "optimizer", "gather", "evaluate", "checkpoint", "record"),
]
"""The values of `tttscale.scan.timeline.Activity`, which a test compares."""
WAITS = frozenset({"wait", "flush", "idle", "reduce", "gather"})
"""Activities in which a rank may wait for others as long as those need."""
_WAITS = frozenset(map(ACTIVITIES.index, WAITS))


@dataclass(frozen=True)
class Beat:
    """What a page says at one moment. Times in seconds of the host's monotonic clock."""

    count: int
    """Changes of activity so far; a rank that makes none is stuck or waits."""
    at: float
    """Time of the last one."""
    step: int
    """The optimizer step it is in, or after which it saves or evaluates; 0 before the first."""
    longest_busy_seconds: float
    """The longest that one activity of a step took that was no wait, since the end of its first step."""
    phase: Phase
    phase_at: float
    """When the phase began."""
    activity: str
    run: str
    """forward, recompute, backward, or empty."""
    sequence: int
    chunk: int
    layer: int
    """-1 where there is none."""
    swept: bool = False
    """Whether it has run a chunk since the phase began."""

    @property
    def waits(self) -> bool:
        """Whether it may be waiting for other ranks."""
        return self.activity in WAITS or self.phase == Phase.MEET

    def where(self) -> str:
        """Say what it does, for people: `forward advance, sequence 0, chunk 3, layer 5`."""
        words = [f"{self.run} {self.activity}".strip()] if self.activity != "other" else []
        places = {"sequence": self.sequence, "chunk": self.chunk, "layer": self.layer}
        words += [f"{name} {value}" for name, value in places.items() if value >= 0]
        return ", ".join(words)


class Page:
    """The page; made before the rank's process is forked off, then one side writes and the other reads."""

    own: "Page | None" = None
    """The page of the process that calls, if a supervisor watches it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BYTES)
        self._count = self._step = 0
        self._at = self._phase_at = time.monotonic()
        self._longest = 0.0
        self._phase = 0
        self._steps_begun = 0
        self._activity = 0
        self._swept = False
        self._place = (0, -1, -1, -1)
        self._write(*self._place)

    # ---- the rank's side -----------------------------------------------------------------------

    def beat(self, activity: str, run: Any = None, task: Any = None, layer: int = -1) -> None:
        """Say that an activity begins (`tttscale.scan.timeline.Timeline.begin`)."""
        now = time.monotonic()
        busy = now - self._at
        if (
            busy > self._longest
            and self._steps_begun > 1
            and self._activity not in _WAITS
            and self._phase == _STEP
        ):
            self._longest = busy
        self._at = now
        self._count += 1
        self._activity = _NUMBERS.get(activity, 0)
        sequence, chunk = (-1, -1) if task is None else (task.sequence, task.chunk)
        self._swept |= bool(run)
        self._write(RUNS.index(run) if run else 0, sequence, chunk, layer)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Say inside that the rank waits for all others; afterwards it does what it did before."""
        activity, place = self._activity, self._place
        if activity not in _WAITS:
            self.beat("idle")
        yield
        if activity not in _WAITS:
            self.beat(ACTIVITIES[activity])
            self._write(*place)

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """Say that a phase begins, and of which step it is if that is another one."""
        self._at = self._phase_at = time.monotonic()
        self._count += 1
        self._phase, self._activity, self._swept = _PHASES.index(phase), 0, False
        if step is not None:
            self._step = step
        self._steps_begun += phase == Phase.STEP
        self._write(0, -1, -1, -1)

    def say(self, name: str, text: str) -> None:
        """Leave a text; it is cut if it is long.

        Args:
            name: `cause` of an end, `folder` of the run, `hub` where supervisors meet, or `watch`, which says
                when a rank hangs (`tttscale.supervise.deadline`).
            text: the text.
        """
        offset, room = _TEXTS[name]
        data = text.encode(errors="replace")[: room - 2]
        self._memory[offset + 2 : offset + 2 + len(data)] = data
        self._memory[offset : offset + 2] = len(data).to_bytes(2, "little")

    def _write(self, run: int, sequence: int, chunk: int, layer: int) -> None:
        self._place = (run, sequence, chunk, layer)
        _FIELDS.pack_into(
            self._memory,
            0,
            self._count,
            self._at,
            self._step,
            self._longest,
            self._phase_at,
            self._phase,
            self._activity,
            run,
            self._swept,
            sequence,
            chunk,
            layer,
        )

    # ---- the supervisor's side -----------------------------------------------------------------

    def read(self) -> Beat:
        """Return what the rank said last, also while it writes."""
        before = self._memory[: _FIELDS.size]
        for _ in range(_READS):
            again = self._memory[: _FIELDS.size]
            if again == before:
                break
            before = again
        count, at, step, longest, phase_at, phase, activity, run, swept, *place = _FIELDS.unpack(
            before
        )
        return Beat(
            count,
            at,
            step,
            longest,
            _PHASES[phase],
            phase_at,
            ACTIVITIES[activity],
            RUNS[run],
            *place,
            swept=bool(swept),
        )

    def text(self, name: str) -> str:
        """Return a text of the rank; empty if it has left none."""
        offset, room = _TEXTS[name]
        length = int.from_bytes(self._memory[offset : offset + 2], "little")
        return self._memory[offset + 2 : offset + 2 + min(length, room - 2)].decode(
            errors="replace"
        )


_STEP = _PHASES.index(Phase.STEP)
_NUMBERS = {name: number for number, name in enumerate(ACTIVITIES)}


def enter(phase: Phase, step: int | None = None) -> None:
    """Say that this process is in a phase now; nothing if no supervisor watches it."""
    if Page.own is not None:
        Page.own.enter(phase, step)


def say(name: str, text: str) -> None:
    """Leave a text for the supervisor; nothing if none watches."""
    if Page.own is not None:
        with suppress(ValueError):
            Page.own.say(name, text)


@contextmanager
def waiting() -> Iterator[None]:
    """Say inside that this process waits for all other ranks; nothing if no supervisor watches it."""
    if Page.own is None:
        yield
        return
    with Page.own.waiting():
        yield
