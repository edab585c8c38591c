"""`attempts.jsonl` of a run: every start and how it ended, one JSON object per line. No torch here.

Rank 0 appends a line when it has taken the run's folder, and another one when it ends. A start without an
end was killed. What the supervisors found out about a failure (`failure.json`) comes before what rank 0 said
itself, which may be a consequence only; the next start makes it a line here and removes it.

The file is bounded, and read with suspicion: lines that are not ours are left out.
"""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tttscale.codes import CODES, DONE, SAVED
from tttscale.files import open_end, open_ordinary, write_text
from tttscale.reading import parse_json, read_bytes
from tttscale.scrub import scrubbed

ATTEMPTS, FAILURE = "attempts.jsonl", "failure.json"
RESTARTS = ("TTTSCALE_RESTART_COUNT", "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
"""Variables in which those who start a run again count, from 0: `tttscale launch again`, Slurm, torchrun."""
TOLD_TO_END = (129, 130, 143)
"""Exit codes of a command that was told to end: SIGHUP, SIGINT, SIGTERM."""
_KEPT = 100
"""Attempts that a file keeps when it is cut."""
_LARGEST_BYTES = 512 << 10
_LONGEST_CAUSE = 500
_NAMES = {code.number: code.name for code in CODES} | dict.fromkeys(TOLD_TO_END, "interrupted")

Short = Annotated[str, Field(max_length=_LONGEST_CAUSE)]
Number = Annotated[int, Field(ge=0, le=1 << 62)]
ExitCode = Annotated[int, Field(ge=0, le=255)]
Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    attempt: Annotated[int, Field(ge=1, le=1 << 62)]
    """Number of the start, from 1."""
    time: Seconds
    """When it happened, in seconds since 1970."""


class Start(_Line):
    """A start that has taken the run's folder."""

    event: Literal["start"] = "start"
    step: Number
    """Step of the checkpoint that it resumes from; 0 without one."""
    restart: Number
    """How often the launcher had started it again; 0: started by hand."""
    launcher: Short
    """As in `tttscale.cluster.Ranks.source`."""
    ranks: Number
    hosts: Number
    host: Short
    """Host of rank 0; what follows is of rank 0, too."""
    place: Short
    """The boot and the space in which `pid` means something."""
    pid: Number
    ticks: Number
    """When the process started, as its host counts; a later process may have its number."""


class End(_Line):
    """The end of a start."""

    event: Literal["end"] = "end"
    code: ExitCode
    step: Number
    """Steps done, in all."""
    cause: Short
    """What was said; empty after a good end."""


class _Failure(BaseModel):
    """What is read of `failure.json`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    rank: Number
    host: str
    phase: str
    step: Number
    cause: str
    exit_code: ExitCode


@dataclass(frozen=True)
class Attempt:
    """A start, and its end if it had one."""

    start: Start
    end: End | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than finished, saved or interrupted; also while it still runs."""
        return self.end is None or self.end.code not in (DONE.number, SAVED.number, *TOLD_TO_END)

    def line(self) -> str:
        """Say what it did: when, from where, how it ended."""
        by = "by hand" if not self.start.restart else f"restart {self.start.restart}"
        ranks = f"{self.start.ranks} rank" + "s" * (self.start.ranks != 1)
        began = (
            f"attempt {self.start.attempt}, {moment(self.start.time)} ({by}, {ranks}), from step "
        )
        began += str(self.start.step)
        if self.end is None:
            return f"{began}: no end, so it runs or was killed without a word"
        cause = f": {self.end.cause}" if self.end.cause else ""
        name = _NAMES.get(self.end.code, "unknown")
        when = f"ended {moment(self.end.time)} after step {self.end.step}"
        return f"{began}, {when} with {self.end.code} ({name}){cause}"


def moment(seconds: float) -> str:
    """Write a time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def restarts(environ: Mapping[str, str]) -> tuple[str, int]:
    """Find out whether this start repeats an earlier one by itself.

    Returns:
        The variable that says so, and its number; ("", 0) of a start by hand.
    """
    for name in RESTARTS:
        value = environ.get(name, "")
        if value.isascii() and value.isdigit() and len(value) < 10 and int(value) > 0:
            return name, int(value)
    return "", 0


def read_attempts(folder: Path) -> list[Attempt]:
    """Return what is known of a run's starts, the oldest first; a failure that was told counts as an end."""
    attempts = _read(folder / ATTEMPTS)
    if attempts and (told := _told(folder, attempts[-1])) is not None:
        attempts[-1] = replace(attempts[-1], end=told)
    return attempts


def crash_loop(attempts: Sequence[Attempt], step: int, most: int) -> list[Attempt]:
    """Return the last starts that all failed without progress, if they are `most` or more.

    A start by hand begins the count: something may have been changed.

    Args:
        attempts: the oldest first; none of them runs.
        step: of the checkpoint that the next one would resume from; 0 without one.
        most: failures that are allowed; 0: any number.
    """
    row: list[Attempt] = []
    for attempt in reversed(attempts):
        if not attempt.failed or attempt.start.step < step:
            break
        row.insert(0, attempt)
        if attempt.start.restart == 0:
            break
    return row if 0 < most <= len(row) else []


def describe_loop(row: Sequence[Attempt], step: int) -> str:
    """Say what a crash loop consists of."""
    saved = f"the newest checkpoint is still that of step {step}" if step else "no checkpoint yet"
    lines = "\n".join(f"  {attempt.line()}" for attempt in row)
    starts = f"the last {len(row)} starts" if len(row) > 1 else "the last start"
    return f"{starts} failed without progress ({saved}):\n{lines}\n"


def begin(folder: Path, start: Start) -> int:
    """Note a start, in a folder that this process has claimed; settle what the one before has left.

    Returns:
        The number of the attempt, which replaces that of `start`.

    Raises:
        OSError: the file system refused.
    """
    path = folder / ATTEMPTS
    attempts = read_attempts(folder)
    # A failure that was told becomes a line; the last line of an attempt counts.
    stored = _read(path)
    if attempts and attempts[-1].end is not None and attempts[-1] != stored[-1]:
        _append(path, attempts[-1].end)
    (folder / FAILURE).unlink(missing_ok=True)
    if len(attempts) > 2 * _KEPT or (path.exists() and path.stat().st_size > _LARGEST_BYTES // 2):
        kept = [line for a in attempts[-_KEPT:] for line in (a.start, a.end) if line is not None]
        write_text(path, "".join(map(_text, kept)))
    number = attempts[-1].start.attempt + 1 if attempts else 1
    _append(path, start.model_copy(update={"attempt": number}))
    return number


def end(folder: Path, attempt: int, code: int, step: int, cause: str) -> None:
    """Note the end of a start.

    Raises:
        OSError: the file system refused.
    """
    cause = shortened_cause(cause)
    _append(
        folder / ATTEMPTS, End(attempt=attempt, time=time.time(), code=code, step=step, cause=cause)
    )


def shortened_cause(text: str) -> str:
    """Put a message into one line of bounded length, without credentials."""
    return " ".join(scrubbed(text).split())[:_LONGEST_CAUSE]


def this_process(step: int, restart: int, launcher: str, ranks: int, hosts: int) -> Start:
    """Describe this process as a start; `begin` gives it its number."""
    pid = os.getpid()
    return Start(
        attempt=1,
        time=time.time(),
        step=step,
        restart=restart,
        launcher=launcher,
        ranks=ranks,
        hosts=hosts,
        host=socket.gethostname()[:_LONGEST_CAUSE],
        place=_place(),
        pid=pid,
        ticks=_ticks(pid) or 0,
    )


def is_alive(start: Start) -> bool | None:
    """Return whether the process of a start still runs; None where this host cannot know."""
    if not start.place or start.place != _place():
        return None
    return _ticks(start.pid) == start.ticks


# ---- files -----------------------------------------------------------------------------------------


def _read(path: Path) -> list[Attempt]:
    try:
        with open_ordinary(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LARGEST_BYTES))
            data = file.read(_LARGEST_BYTES)
    except OSError:
        return []
    attempts: list[Attempt] = []
    for text in data.split(b"\n"):
        match _parsed(text):
            case Start() as found if not attempts or found.attempt > attempts[-1].start.attempt:
                attempts.append(Attempt(found))
            case End() as found if attempts and found.attempt == attempts[-1].start.attempt:
                attempts[-1] = replace(attempts[-1], end=found)
            case _:  # torn, or not ours
                pass
    return attempts


def _parsed(text: bytes) -> Start | End | None:
    with suppress(ValueError, ValidationError):
        fields = parse_json(text)
        if isinstance(fields, dict):
            return (End if fields.get("event") == "end" else Start).model_validate(fields)
    return None


def _told(folder: Path, last: Attempt) -> End | None:
    """Return the end that `failure.json` tells of; it was not there when the last attempt began."""
    path = folder / FAILURE
    try:
        said = _Failure.model_validate(parse_json(read_bytes(path, _LARGEST_BYTES)))
        seconds = path.stat().st_mtime
    except (OSError, ValueError):  # pydantic's errors are ValueErrors
        return None
    where = f"step {said.step}" if said.phase == "step" else said.phase
    cause = f"rank {said.rank} on {said.host} in {where}: {said.cause}"
    return End(
        attempt=last.start.attempt,
        time=max(0.0, seconds),
        code=said.exit_code,
        step=last.end.step if last.end is not None else max(0, said.step - 1),
        cause=shortened_cause(cause),
    )


def _append(path: Path, line: Start | End) -> None:
    with open_end(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            torn = file.read(1) != b"\n"
            file.write(b"\n" * torn)
        file.write(_text(line).encode())
        file.flush()
        os.fsync(file.fileno())


def _text(line: Start | End) -> str:
    return json.dumps({"event": line.event, **line.model_dump()}) + "\n"


def _place() -> str:
    """Name the boot of this host, and the space in which it counts processes; empty if it does not say."""
    try:
        boot = read_bytes(Path("/proc/sys/kernel/random/boot_id"), 100).decode().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _ticks(pid: int) -> int | None:
    """Return when a process started; None if it is gone."""
    try:
        stat = read_bytes(Path(f"/proc/{pid}/stat"), 4096).decode(errors="replace")
    except OSError:
        return None
    # The name in brackets may hold anything, also brackets.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
