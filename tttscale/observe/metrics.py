"""`metrics.jsonl`: one JSON object per step, the truth that everything else is drawn from.

Keys: step (from 1), loss (nats per token), grad_norm, lr, tokens (with a loss, since the start of the
run; padding has none), tokens_per_second, step_seconds, data_seconds (waiting for tokens, of the slowest
rank), bubble_fraction (share of the step that ranks waited for carries, for their gradients and for the
last rank to end its backward sweep), exposed_comm_seconds (waiting for carries and their gradients, and
reducing those of the parameters; not the parameters that ZeRO 1 to 3 gather afterwards), peak_memory_bytes
and, on some steps, heldout_loss (nats per token). Waits are means over the ranks.
"""

import errno
import fcntl
import itertools
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from tttscale.errors import DataError
from tttscale.scrub import shortened

_LONGEST_BYTES = 1 << 20
"""A longer line is no record."""

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Seen(NamedTuple):
    """What a metrics file holds up to some step."""

    first: int
    """Step of its first record; 0 without any."""
    last: int
    """Step of the last record that counts; 0 without any."""
    line: int
    """Number of that record's line, from 1."""
    end_bytes: int
    """Where that line ends."""
    record: dict[str, Any]
    """That record."""


def look_through(path: Path, step: int | None = None) -> Seen:
    """Read the records up to `step` (None: all) and be sure that one run wrote them, each step once.

    What comes later is not looked at. Memory is bounded, whatever is in the file.

    Raises:
        DataError: it is no file of ours, or a line is not the record that belongs there.
        OSError: it cannot be read.
    """
    seen = Seen(0, 0, 0, 0, {})
    for number, end, line in _lines(path):
        record = _record(line, is_ours=True)
        found = _step_of(record)
        if record is None or found is None or found < 1:
            raise DataError(_misplaced(path, number, _expected(seen), _excerpt(line)))
        if step is not None and found > step:
            break
        if seen.last and found != seen.last + 1:
            raise DataError(_misplaced(path, number, _expected(seen), f"that of step {found}"))
        for key in ("loss", "tokens"):
            if isinstance(record.get(key, 0), bool) or not isinstance(
                record.get(key, 0), int | float
            ):
                wanted = f"a number for its {key}"
                raise DataError(_misplaced(path, number, wanted, shortened(record[key], 30)))
        seen = Seen(seen.first or found, found, number, end, record)
    if step is not None and 0 < seen.last < step:
        raise DataError(
            _misplaced(path, seen.line, f"records up to step {step}", f"{seen.last} last")
        )
    return seen


class MetricsLog:
    """Appends records to a file, one line each; a line is on its way to the disk at once.

    Attributes:
        was_cut: Whether a crash had left its last line unfinished; it is gone.
    """

    def __init__(self, path: str | Path) -> None:
        """Open it for this process alone, as far as the file system knows locks.

        Raises:
            BlockingIOError: another process writes it.
            OSError: it cannot be written, or is a link or no file.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_alone(self.path)
        self.was_cut = _end_last_line(self._file.fileno())

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; floats keep full precision, NaN and infinities become strings."""
        plain = {key: _plain(value) for key, value in record.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()

    def cut_after(self, step: int) -> int:
        """Move what comes after the record of `step` to `NAME-replaced.jsonl`: the run goes on from there.

        Returns:
            How many lines were moved.
        """
        end, moved = 0, 0
        with suppress(DataError):  # a line that is too long is not what is kept
            for _, line_end, line in _lines(self.path):
                record = _record(line)
                if (_step_of(record) or 0) > step:
                    break
                end = end if record is None else line_end
        if end == os.fstat(self.fileno()).st_size:
            return 0
        aside = self.path.with_name(f"{self.path.stem}-replaced{self.path.suffix}")
        with self.path.open("rb") as source, _appended(aside) as replaced:
            source.seek(end)
            while block := source.read(_LONGEST_BYTES):
                moved += block.count(b"\n")
                replaced.write(block)
            replaced.flush()
            os.fsync(replaced.fileno())
        self._file.truncate(end)
        return moved

    def sync(self) -> None:
        """Put all records on disk."""
        os.fsync(self._file.fileno())

    def fileno(self) -> int:
        """The open file, as the system knows it."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read all records; "nan", "inf" and "-inf" become floats again.

    A last line cut short by a crash is left out.

    Raises:
        DataError: the file is missing, or a line in it is damaged.
    """
    records = []
    try:
        for number, _, line in _lines(Path(path)):
            record = _record(line)
            if record is None:
                raise DataError(f"{path}:{number}: expected a JSON object, found {_excerpt(line)}")
            records.append(record)
    except OSError as error:
        raise DataError(f"cannot read the metrics {path}: {error}") from None
    return records


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, end in bytes and text of each line that was written to its end; blank ones are left out.

    Raises:
        DataError: a line is longer than any record.
        OSError: it cannot be read, or is no file.
    """
    end = 0
    with os.fdopen(_descriptor(path, os.O_RDONLY), "rb") as file:
        for number in itertools.count(1):
            line = file.readline(_LONGEST_BYTES)
            end += len(line)
            if len(line) == _LONGEST_BYTES:
                raise DataError(
                    _misplaced(
                        path, number, "a JSON object", f"a line of more than {len(line):,} bytes"
                    )
                )
            if not line.endswith(b"\n"):
                return
            if line.strip():
                yield number, end, line


def _record(line: bytes, is_ours: bool = False) -> dict[str, Any] | None:
    """None for what is no JSON object; `write` puts NaN and infinities in quotes, as JSON has none."""
    try:
        record = json.loads(line.decode(), parse_constant=_refuse if is_ours else None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return {
        key: _NON_FINITE.get(value, value) if isinstance(value, str) else value
        for key, value in record.items()
    }


def _refuse(word: str) -> None:
    raise ValueError(word)


def _step_of(record: dict[str, Any] | None) -> int | None:
    step = None if record is None else record.get("step")
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _expected(seen: Seen) -> str:
    return f"the record of step {seen.last + 1}" if seen.last else "a record with its step"


def _excerpt(line: bytes) -> str:
    return shortened(line.decode(errors="backslashreplace").rstrip("\n"))


def _misplaced(path: Path, number: int, expected: str, found: str) -> str:
    return (
        f"{path}:{number}: expected {expected}, found {found}. Put the file back as the run wrote it, or "
        "move it away: the run then goes on from its checkpoint with a new one. An earlier checkpoint "
        "(checkpoint.resume=N) needs only the lines before it."
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    number = float(value)  # numpy and torch scalars too
    if math.isfinite(number):
        return number
    return "nan" if math.isnan(number) else ("inf" if number > 0 else "-inf")


def _descriptor(path: Path, flags: int) -> int:
    """An open regular file: no pipe that would be waited for, and nothing is written through a link."""
    flags |= os.O_NOFOLLOW if flags & (os.O_WRONLY | os.O_RDWR) else 0
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _appended(path: Path) -> IO[bytes]:
    return os.fdopen(_descriptor(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def _open_alone(path: Path) -> IO[str]:
    """The system frees the lock when the process ends."""
    descriptor = _descriptor(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        pass
    return os.fdopen(descriptor, "a", encoding="utf-8")


def _end_last_line(descriptor: int) -> bool:
    """Cut off a line that a crash left unfinished, so that the next one starts cleanly."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _LONGEST_BYTES, max(0, size - _LONGEST_BYTES))
    if not tail or tail.endswith(b"\n"):
        return False
    os.ftruncate(descriptor, size - len(tail) + tail.rfind(b"\n") + 1)
    return True
