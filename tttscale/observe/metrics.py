"""`metrics.jsonl`: one JSON object per step, the truth that everything else is drawn from.

Keys: step (from 1), loss (nats per token), grad_norm, lr, tokens (with a loss, since the start of the
run; padding has none), tokens_per_second, step_seconds, data_seconds, bubble_fraction, exposed_comm_seconds,
between_seconds, peak_memory_bytes (so far, of the rank that has taken most) and, on some steps, heldout_loss
(nats per token).

All ranks begin a step together, and `step_seconds` later the last of them has ended it: tokens_per_second is
over this interval, and what follows lies inside it, on every rank and in every step:

- data_seconds: waiting for tokens, of the rank that waited longest;
- bubble_fraction: the share of the step in which ranks were idle: they waited for carries, for their
  gradients, for the last rank to end its backward sweep or for the last one to end the step; a mean over the
  ranks;
- exposed_comm_seconds: exchanging carries and their gradients, with the wait for a rank that has not come so
  far; summing the parameters' gradients over the ranks; gathering the new parameters (ZeRO 1 to 3); a mean
  over the ranks. Only what holds up a rank counts, not what travels while it computes.

between_seconds lies before the step: what all ranks did, or waited for, since the last one (records, plots,
held-out losses, checkpoints). In the first step it is 0.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tttscale.errors import DataError
from tttscale.files import open_end
from tttscale.reading import parse_json, read_bytes, reason

_METRICS_BYTES = 4 << 30
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsLog:
    """Appends records to a file, one line each; a line is on its way to the disk at once."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = path, open_end(path)
        _end_last_line(self._file)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; floats keep full precision, NaN and infinities become strings."""
        plain = {key: _plain(value) for key, value in record.items()}
        self._file.write((json.dumps(plain, allow_nan=False) + "\n").encode())
        self._file.flush()

    def cut_after(self, step: int) -> None:
        """Move the records of later steps to `NAME-replaced.jsonl`: the run goes on from `step`."""
        self._file.seek(0)
        lines = self._file.readlines()
        kept = 0
        while kept < len(lines) and not _is_later(lines[kept], step):
            kept += 1
        if kept == len(lines):
            return
        aside = self._path.with_name(f"{self._path.stem}-replaced{self._path.suffix}")
        with open_end(aside) as replaced:
            replaced.writelines(lines[kept:])
            replaced.flush()
            os.fsync(replaced.fileno())
        self._file.truncate(sum(map(len, lines[:kept])))

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
    try:
        lines = read_bytes(Path(path), _METRICS_BYTES).split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the metrics {path}: {reason(error)}") from None
    complete, records = lines[:-1], []
    for number, line in enumerate(complete, start=1):
        if not line.strip():
            continue
        record = _record(line)
        if record is None:
            found = line[:60].decode(errors="backslashreplace")
            raise DataError(f"{path}:{number}: expected a JSON object, found {found!r}")
        records.append(record)
    return records


def _is_later(line: bytes, step: int) -> bool:
    record = _record(line)
    found = record.get("step", 0) if record is not None else None
    return isinstance(found, int | float) and found > step


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line, non_finite=True)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    return {
        key: _NON_FINITE.get(value, value) if isinstance(value, str) else value
        for key, value in record.items()
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    number = float(value)  # numpy and torch scalars too
    if math.isfinite(number):
        return number
    return "nan" if math.isnan(number) else ("inf" if number > 0 else "-inf")


def _end_last_line(file: IO[bytes]) -> None:
    """Cut off a line that a crash left unfinished, so that the next one starts cleanly."""
    content = file.read()
    if content and not content.endswith(b"\n"):
        file.truncate(content.rfind(b"\n") + 1)
