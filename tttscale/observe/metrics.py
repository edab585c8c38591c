"""`metrics.jsonl`: one JSON object per step, which all else is drawn from.

Keys: step (from 1), loss (nats per token), grad_norm, lr, tokens (with a loss, since the start of the
run; padding has none), tokens_per_second, step_seconds, data_seconds, bubble_fraction, ramp_fraction,
starved_fraction, exposed_comm_seconds, slowest_rank, slowest_factor, model_flops_per_second, mfu,
between_seconds, peak_memory_bytes (so far, of the rank that has taken most), inner_norm, inner_norm_layer,
inner_norm_head, inner_norm_chunk and, on some steps, heldout_loss (nats per token).

All ranks begin a step together, and `step_seconds` later the last of them has ended it: tokens_per_second is
over this interval, and what follows lies inside it, on every rank and in every step:

- data_seconds: the wait for tokens, of the rank that waited longest;
- bubble_fraction: the share of the step in which ranks were idle: they waited for carries, for their
  gradients, for the last rank to end its backward sweep or for the last one to end the step; a mean over the
  ranks;
- ramp_fraction and starved_fraction: two parts of the bubble. Ramp: the pipeline fills and drains, which is
  the waits in a rank's first chunk of each sweep and its idle time after its last one. Starved: waits for
  carries in all other chunks. What is left of the bubble is handing messages over;
- slowest_rank and slowest_factor: the rank whose sweeps compute slowest for the work they have, without all
  waits, and its time over the median of the other ranks; with one rank there are none;
- model_flops_per_second: what the model needs for the tokens with a loss, forward and backward, without
  recomputation, of all ranks together; null if a layer's cannot be counted;
- mfu: its share of the devices' peak (model FLOPs utilisation); null if the peak is not known
  (logging.peak_tflops gives it);
- exposed_comm_seconds: exchanging carries and their gradients, with the wait for a rank that is behind;
  summing the parameters' gradients over the ranks; gathering the new parameters (ZeRO 1 to 3); a mean
  over the ranks. Only what holds up a rank counts, not what travels while it computes.

inner_norm is the largest norm of an inner weight (W1, b1, ...) of one head at the end of any chunk of the
step, and the next three say where; without layers with heads there are none. A step whose update was left out
(train.on_divergence=skip) has no loss and no such figures, and skipped = true.

between_seconds is the time before the step: what all ranks did, or waited for, since the last one (records,
plots, held-out losses, checkpoints). In the first step it is 0.
"""

import fcntl
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from tttscale.errors import DataError
from tttscale.files import open_end, open_ordinary
from tttscale.reading import parse_json, reason
from tttscale.scrub import shortened

_LONGEST_BYTES = 1 << 20
"""A longer line is not a record."""

_METRICS_BYTES = 4 << 30
_MARK_BYTES = 64
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
    """Read the records up to `step` (None: all) and check that one run wrote them, each step once.

    Later lines are not read. Memory is bounded, whatever is in the file.

    Raises:
        DataError: it is not a file of ours, or a line is not the record that belongs there.
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
    """Appends records to a file, one line each; each line is given to the system at once."""

    def __init__(self, path: str | Path) -> None:
        """Open the file for this process alone, as far as the file system knows locks.

        Raises:
            BlockingIOError: another process writes it.
            OSError: it cannot be written, or is a link or not a file.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_alone(self.path)
        self.was_cut = _end_last_line(self._file.fileno())
        """Whether a crash had left the last line unfinished; it was removed."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; floats keep full precision, NaN and infinities become strings."""
        plain = {key: _plain(value) for key, value in record.items()}
        self._file.write((json.dumps(plain, allow_nan=False) + "\n").encode())
        self._file.flush()

    def cut_after(self, step: int) -> int:
        """Move what comes after the record of `step` to `NAME-replaced.jsonl`; the run resumes from there.

        Returns:
            How many lines were moved.
        """
        end, moved = 0, 0
        with suppress(DataError):  # a line that is too long is moved, too
            for _, line_end, line in _lines(self.path):
                record = _record(line)
                if (_step_of(record) or 0) > step:
                    break
                end = end if record is None else line_end
        if end == os.fstat(self.fileno()).st_size:
            return 0
        aside = self.path.with_name(f"{self.path.stem}-replaced{self.path.suffix}")
        with open_ordinary(self.path) as source, open_end(aside) as replaced:
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
        """Return the descriptor of the open file."""
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
    return list(each_record(path))


def each_record(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield what `read_metrics` returns, one record in memory at a time.

    Raises:
        DataError: the file is missing, or a line in it is damaged.
    """
    try:
        for number, _, line in _lines(Path(path)):
            record = _record(line)
            if record is None:
                raise DataError(f"{path}:{number}: expected a JSON object, found {_excerpt(line)}")
            yield record
    except OSError as error:
        raise DataError(f"cannot read the metrics {path}: {reason(error)}") from None


def last_records(path: Path, limit_bytes: int = 1 << 18) -> list[dict[str, Any]]:
    """Read the newest records that have a step, the oldest first, in a time that no file is too large for.

    Args:
        path: the file.
        limit_bytes: how much of its end is read. What is no record there is left out.

    Raises:
        OSError: it cannot be read, or is not a file.
    """
    with open_ordinary(path) as file:
        begin = max(0, file.seek(0, os.SEEK_END) - limit_bytes)
        file.seek(begin)
        lines = file.read(limit_bytes).split(b"\n")
    # The last one is cut short or empty, the first one may lack its beginning.
    found = (_record(line) for line in lines[bool(begin) : -1])
    return [record for record in found if record is not None and _step_of(record) is not None]


class Tail(NamedTuple):
    """How far a metrics file that grows has been read."""

    end_bytes: int = 0
    """Where the last line that was read ends."""
    mark: bytes = b""
    """What stands before that, by which the file is known again."""
    seen_bytes: int = 0
    """How large the file was then."""


def read_tail(path: Path, tail: Tail, limit_bytes: int) -> tuple[list[dict[str, Any]] | None, Tail]:
    """Read the complete lines that have come since.

    Args:
        path: the file.
        tail: what the last call returned; `Tail()` at first.
        limit_bytes: the most that is read, at least a line of a record.

    Returns:
        The records that have a step, and how far the file is read now. What is no record is left out. None
        instead of records: the file was cut or replaced, and is to be read from its begin.

    Raises:
        OSError: it cannot be read, or is not a file.
    """
    with open_ordinary(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(tail.end_bytes - len(tail.mark))
        block = file.read(len(tail.mark) + limit_bytes)
    if not block.startswith(tail.mark):
        return None, Tail()
    fresh = block[len(tail.mark) :]
    end = fresh.rfind(b"\n") + 1
    if not end and len(fresh) == limit_bytes:  # a longer line is not a record
        end = len(fresh)
    found = (_record(line) for line in fresh[:end].split(b"\n") if line)
    records = [r for r in found if r is not None and (_step_of(r) or 0) >= 1]
    mark = (tail.mark + fresh[:end])[-_MARK_BYTES:]
    return records, Tail(tail.end_bytes + end, mark, size)


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, end in bytes and text of each complete line that is not blank.

    Raises:
        DataError: a line is longer than any record.
        OSError: it cannot be read, or is not a file.
    """
    end = 0
    with open_ordinary(path) as file:
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
    """Parse a line; None if it is not a JSON object. NaN and infinities are in quotes, as JSON has none."""
    try:
        record = parse_json(line, non_finite=not is_ours)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    return {
        key: _NON_FINITE.get(value, value) if isinstance(value, str) else value
        for key, value in record.items()
    }


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
        "move it away: the run then resumes from its checkpoint with a new one. An earlier checkpoint "
        "(checkpoint.resume=N) needs only the lines before it."
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    number = float(value)  # numpy and torch scalars too
    if math.isfinite(number):
        return number
    return "nan" if math.isnan(number) else ("inf" if number > 0 else "-inf")


def _open_alone(path: Path) -> IO[bytes]:
    """The system frees the lock when the process ends."""
    file = open_end(path)
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:  # a file system without locks
        pass
    return file


def _end_last_line(descriptor: int) -> bool:
    """Cut off a line that a crash left unfinished, so that the next one starts cleanly."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _LONGEST_BYTES, max(0, size - _LONGEST_BYTES))
    if not tail or tail.endswith(b"\n"):
        return False
    os.ftruncate(descriptor, size - len(tail) + tail.rfind(b"\n") + 1)
    return True
