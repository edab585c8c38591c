"""`tttscale launch status`: what became of a run, from the files in its folder only. No torch here."""

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tttscale.codes import (
    BUG,
    CHECKPOINT,
    CODES,
    DATA,
    DISK,
    DONE,
    HANG,
    LAUNCH,
    LOOP,
    NUMERICS,
    PEER,
    SAVED,
    USAGE,
)
from tttscale.config import load_config
from tttscale.errors import CheckpointError, ConfigError, TTTScaleError
from tttscale.observe.metrics import last_records
from tttscale.reading import read_json
from tttscale.scrub import scrubbed
from tttscale.supervise.attempts import (
    FAILURE,
    TOLD_TO_END,
    Attempt,
    crash_loop,
    is_alive,
    moment,
    read_attempts,
)
from tttscale.supervise.verdict import Verdict
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manifest import read_manifest

_FINAL = ("model.safetensors", "config.json")
_SMALL_BYTES = 1 << 20
_SHOWN_ATTEMPTS = 10
_SHORTEST_STEP_SECONDS = 1e-6
_SILENT_SECONDS, _SILENT_STEPS = 600.0, 10
"""Without a record for so long, and so many steps' time, a run is suspected to hang."""
_CODES = {code.number: code for code in CODES}
_SAME = "start the same command again: it resumes"
_NEXT = {
    USAGE.number: "mend what the message names, and start again",
    DATA.number: "`tttscale data verify STORE`; mend or copy the store, or set data.damaged=pad",
    CHECKPOINT.number: "put the files back, mount their disk, or name another checkpoint.resume",
    LAUNCH.number: f"look at what the other ranks printed and at `tttscale doctor`; {_SAME}",
    BUG.number: "read the traceback in the log; mend it, or report it",
    PEER.number: f"{_SAME}; if it is the same host again, leave that out",
    HANG.number: f"look at the stacks in the log, then {_SAME}",
    DISK.number: f"make room on the disk or mend it, then {_SAME}",
    SAVED.number: _SAME,
    NUMERICS.number: "the message says which key to change and which step to resume from",
    LOOP.number: "see to the cause that the attempts name, then start by hand",
}
"""Exit code -> what to do."""


class State(StrEnum):
    """What became of a run."""

    NEVER_STARTED = "never started"
    RUNNING = "running"
    SILENT = "silent"
    """It runs or hangs on another host, or was killed there."""
    DONE = "done"
    SAVED = "saved"
    """Saved and ended on request."""
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DIVERGED = "diverged"
    KILLED = "killed"
    """Without a word."""
    UNKNOWN = "unknown"
    """An earlier tttscale wrote it, which noted no starts."""


@dataclass
class Status:
    """What became of a run. Ages in seconds; None: unknown."""

    run: str
    state: State = State.NEVER_STARTED
    says: str = ""
    next: str = ""
    """What to do."""
    step: int = 0
    """Steps done."""
    steps: int | None = None
    """Steps wanted."""
    since: str | None = None
    """When the last attempt started."""
    record_age_seconds: float | None = None
    """Since the last step's record."""
    steps_per_hour: float | None = None
    exit_code: int | None = None
    meaning: str | None = None
    failed: str | None = None
    """The line that all ranks printed."""
    checkpoint_step: int | None = None
    checkpoint: str | None = None
    """Path of the newest checkpoint."""
    checkpoint_age_seconds: float | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    attempt_lines: list[str] = field(default_factory=list)

    def json(self) -> str:
        """All of it, for programs."""
        return json.dumps(asdict(self), indent=1)

    def text(self) -> str:
        """All of it, for people."""
        of = f" of {self.steps}" if self.steps is not None else ""
        lines = [f"{self.run}: {self.state}, step {self.step}{of}", f"  {self.says}"]
        if self.failed:
            lines.append(f"  {self.failed}")
        if self.exit_code is not None:
            meaning = f": {self.meaning}" if self.meaning else ""
            lines.append(f"  exit code {self.exit_code}{meaning}")
        if self.next:
            lines.append(f"  next: {self.next}")
        if self.checkpoint is not None:
            age = f", {_age(self.checkpoint_age_seconds)} old" * (
                self.checkpoint_age_seconds is not None
            )
            lines.append(f"  last checkpoint: step {self.checkpoint_step}{age}, {self.checkpoint}")
        else:
            lines.append("  last checkpoint: none")
        if self.steps_per_hour is not None:
            lines.append(f"  speed: {self.steps_per_hour:.4g} steps per hour")
        if self.attempt_lines:
            shown = self.attempt_lines[-_SHOWN_ATTEMPTS:]
            left = len(self.attempt_lines) - len(shown)
            lines.append(
                f"  attempts: {len(self.attempt_lines)}" + f", the last {len(shown)}:" * bool(left)
            )
            lines += [f"    {line}" for line in shown]
        return "\n".join("".join(map(_shown, scrubbed(line))) for line in lines)


def look(folder: Path) -> Status:
    """Find out what became of a run.

    Raises:
        ConfigError: the folder is none of a run, or cannot be read.
    """
    try:
        return _look(folder, time.time())
    except OSError as error:
        raise ConfigError(f"{folder}: it cannot be read: {error.strerror or error}.") from None


def _look(folder: Path, now: float) -> Status:
    metrics = folder / "metrics.jsonl"
    marks = ("attempts.jsonl", "metrics.jsonl", "config.yaml", "checkpoints", "final", "slurm")
    if not any((folder / name).exists() for name in marks):
        what = "it holds none of a run's files" if folder.is_dir() else "there is no such folder"
        raise ConfigError(
            f"{folder}: {what}. Give a run's folder, which is run.dir/run.name, such as runs/quickstart."
        )
    found = Status(run=str(folder))
    attempts = read_attempts(folder)
    records: list[dict[str, Any]] = []
    with suppress(OSError):
        records = last_records(metrics)
        found.record_age_seconds = max(0.0, now - metrics.stat().st_mtime) if records else None
    found.step = records[-1]["step"] if records else 0
    with suppress(TTTScaleError):
        found.steps = load_config(folder / "config.yaml").train.steps
    _add_checkpoint(found, folder, now)
    seconds = [_step_seconds(record) for record in records]
    seconds = [s for s in seconds if s > _SHORTEST_STEP_SECONDS]
    if seconds:
        found.steps_per_hour = 3600 / statistics.fmean(seconds)
    found.attempts = [_as_fields(attempt) for attempt in attempts]
    found.attempt_lines = [attempt.line() for attempt in attempts]
    finished = all((folder / "final" / name).is_file() for name in _FINAL)
    if not attempts:
        _judge_without_attempts(found, finished)
    elif attempts[-1].end is None:
        _judge_unended(found, attempts[-1], statistics.median(seconds) if seconds else 0.0)
    else:
        _judge_ended(found, folder, attempts)
    if attempts:
        found.since = moment(attempts[-1].start.time)
    return found


def _judge_without_attempts(found: Status, finished: bool) -> None:
    if finished:
        found.state, found.says = State.DONE, "the final weights are there"
    elif found.step or found.checkpoint is not None:
        found.state = State.UNKNOWN
        age = _age(found.record_age_seconds)
        found.says = f"no start is noted (an earlier tttscale?); the last record is {age} old"
    else:
        found.says, found.next = "no start has come as far as taking the folder", "start it"


def _judge_unended(found: Status, last: Attempt, step_seconds: float) -> None:
    start, alive = last.start, is_alive(last.start)
    host = f"on {start.host}" if start.host else ""
    since = f"since {moment(start.time)} {host}, process {start.pid}"
    age = found.record_age_seconds
    if age is None or time.time() - start.time < age:  # the record is of an earlier start
        age = max(0.0, time.time() - start.time)
    said = f"no record for {_age(age)}"
    silent = age > max(_SILENT_SECONDS, _SILENT_STEPS * step_seconds)
    if alive is False:
        found.state, found.says = State.KILLED, f"killed without a word; it ran {since}"
        found.next = f"{_SAME}; if it is killed again, look for a lack of memory (`dmesg`)"
    elif alive or not silent:
        found.state, found.says = State.RUNNING, f"{since}; the last record is {_age(age)} old"
        if found.record_age_seconds is None:
            found.says = f"{since}; no step is done yet"
        if silent:
            found.says = f"{since}; {said}, though a step takes {_age(step_seconds)}: it may hang"
    else:
        found.state = State.SILENT
        found.says = f"started {since}; {said}: it hangs there, or was killed with its host"
        found.next = f"look on {start.host}; if it is gone, {_SAME}"


def _judge_ended(found: Status, folder: Path, attempts: Sequence[Attempt]) -> None:
    end = attempts[-1].end
    assert end is not None
    code = _CODES.get(end.code)
    found.exit_code = end.code
    found.meaning = f"{code.name}; {code.meaning}" if code else None
    found.next = _NEXT.get(end.code, "")
    when = moment(end.time)
    if end.code == DONE.number:
        found.state, found.says = State.DONE, f"finished {when}"
        found.next = "" if found.steps is None else "train.steps=N with a larger N extends it"
        return
    if end.code == SAVED.number:
        found.state, found.says = State.SAVED, f"saved and ended as asked, {when}"
        return
    if end.code in TOLD_TO_END:
        found.state, found.says = State.INTERRUPTED, f"told to end, {when}"
        found.meaning, found.next = "interrupted", _SAME
        return
    found.state, found.says = State.FAILED, f"failed {when}: {end.cause or 'no cause is noted'}"
    found.failed = _failed_line(folder)
    if end.code == NUMERICS.number:
        found.state = State.DIVERGED
        if times := _diverged_times(folder):
            found.says += f" (diverged.json: step {times[0]} has failed {times[1]} times)"
    saved = found.checkpoint_step or 0
    row = crash_loop(attempts, saved, 2)
    if row:
        found.says += f"; the last {len(row)} starts failed without a new checkpoint"


def _failed_line(folder: Path) -> str | None:
    """Return what all ranks printed; None if no supervisor has noted it."""
    with suppress(ConfigError, TypeError, KeyError, ValueError):
        said = read_json(
            folder / FAILURE, error=ConfigError, advice="", limit_bytes=16 * _SMALL_BYTES
        )
        words = [str(said[name])[:1000] for name in ("rank", "host", "phase", "step", "cause")]
        rank, host, phase, step, cause = words
        return Verdict(int(rank), host, phase, int(step), cause, 0).line()
    return None


def _diverged_times(folder: Path) -> tuple[int, int] | None:
    with suppress(ConfigError, TypeError, KeyError, ValueError):
        said = read_json(
            folder / "diverged.json", error=ConfigError, advice="", limit_bytes=_SMALL_BYTES
        )
        return int(said["step"]), int(said["times"])
    return None


def _add_checkpoint(found: Status, folder: Path, now: float) -> None:
    checkpoints = CheckpointFolder(folder / "checkpoints")
    for step in checkpoints.steps():
        path = checkpoints.path(step)
        with suppress(CheckpointError, OSError):  # a damaged one is skipped, as on resume
            read_manifest(path)
            found.checkpoint_step, found.checkpoint = step, str(path)
            found.checkpoint_age_seconds = max(
                0.0, now - (path / "checkpoint.json").stat().st_mtime
            )
            return


def _as_fields(attempt: Attempt) -> dict[str, Any]:
    return {
        "start": attempt.start.model_dump(),
        "end": attempt.end.model_dump() if attempt.end is not None else None,
    }


def _step_seconds(record: dict[str, Any]) -> float:
    values = (record.get("step_seconds"), record.get("between_seconds", 0.0))
    numbers = [float(v) for v in values if isinstance(v, int | float) and 0 <= v < 1e9]
    return sum(numbers) if len(numbers) == len(values) else 0.0


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
