"""What the page shows of a run: its state, values by step, loss by position. The folder is only read."""

import math
import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from tttscale.errors import ConfigError, DataError
from tttscale.launch.status import Status, look
from tttscale.observe.metrics import Tail, read_tail
from tttscale.observe.plots import read_positions
from tttscale.scrub import scrubbed
from tttscale.watch.thinned import LARGEST, Thinned

KEYS = (
    "loss",
    "heldout_loss",
    "tokens_per_second",
    "lr",
    "grad_norm",
    "data_share",
    "ramp_share",
    "starved_share",
    "idle_share",
    "between_share",
    "computing_share",
)
"""What is kept of each record: values of metrics.jsonl, and shares of the time from one step to the next."""
_BLOCK_BYTES = 4 << 20
"""Read of the metrics at once; the page is served in between."""
_RECENT = 32
"""Steps whose figures are averaged for the cards."""
_PATH = re.compile(
    r"(?<![\w.…-])(?:(?:~|\.{1,2})?/+(?:[\w.+@%=-]+/+)*|(?:[\w.+@%=-]+/+){2,})(?=[\w.+@%=-])"
)
"""Folders before the last part of a path."""


class WatchedRun:
    """A run's folder, of which `snapshot` shows what has come since.

    Args:
        folder: of the run.

    Raises:
        ConfigError: it is none of a run, or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        look(folder)
        self._folder = folder
        self._start_over()

    def update(self) -> bool:
        """Read at most one block of new records; return whether all that is there has been read.

        A run that resumes from an earlier step takes the later records out of the file: then all of it is
        read again.
        """
        path = self._folder / "metrics.jsonl"
        try:
            records, tail = read_tail(path, self._tail, _BLOCK_BYTES)
        except OSError:
            self._is_done = True
            return True  # none yet, or moved away: what is shown stays
        if records is None:
            self._start_over()
            return False
        self._tail, before = tail, self._tail
        for record in records:
            step = record["step"]
            if step > self._last_step:
                self._take(step, record)
            elif self._is_whole:  # later records were taken out, and more than these has come since
                self._start_over()
                return False
        done = tail.end_bytes in (before.end_bytes, tail.seen_bytes)
        self._is_done, self._is_whole = done, self._is_whole or done
        return done

    def snapshot(self) -> dict[str, Any]:
        """All that the page shows, as JSON takes it.

        Raises:
            ConfigError: the folder is gone.
        """
        status = look(self._folder)
        share = self._tail.end_bytes / max(self._tail.seen_bytes, 1)
        return {
            "run": os.fsencode(self._folder.resolve().name).decode(errors="replace"),
            "status": _status(status),
            "reading": 1.0 if self._is_done else min(share, 0.999),
            "series": self._series.columns(),
            "heldout": self._heldout.columns(),
            "recent": self._recent_figures(),
            "positions": self._positions(),
        }

    def _start_over(self) -> None:
        self._tail = Tail()
        self._last_step, self._is_whole, self._is_done = 0, False, False
        self._series, self._heldout = Thinned(KEYS), Thinned(("heldout_loss",), 1024)
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)

    def _take(self, step: int, record: dict[str, Any]) -> None:
        self._last_step = step
        values = record | _shares(record)
        self._series.add(step, values)
        if "heldout_loss" in record:
            self._heldout.add(step, record)
        self._recent.append(values)

    def _recent_figures(self) -> dict[str, float | int | None]:
        """Means over the last steps, and what the last record holds."""
        keys = (*KEYS, "step_seconds", "exposed_comm_seconds", "mfu")
        figures: dict[str, float | int | None] = {}
        for key in keys:
            found = [v for record in self._recent if (v := _number(record.get(key))) is not None]
            figures[key] = sum(found) / len(found) if found else None
        last = self._recent[-1] if self._recent else {}
        for key in ("loss", "lr", "grad_norm", "tokens", "peak_memory_bytes", "inner_norm"):
            figures[f"last_{key}"] = _number(last.get(key))
        heldout = self._heldout.columns()["heldout_loss"]
        return figures | {
            "steps": len(self._recent),
            "last_heldout_loss": heldout[-1] if heldout else None,
        }

    def _positions(self) -> dict[str, list[float | None]] | None:
        with suppress(DataError, ConfigError):
            edges, losses, counts = read_positions(self._folder / "positions.json")
            return {
                "edges": list(edges),
                "loss": [loss if math.isfinite(loss) else None for loss in losses],
                "count": list(counts),
            }
        return None


def _shares(record: dict[str, Any]) -> dict[str, float]:
    """What the time from the last step's end to this one's went to, as shares of it."""
    step, between = (_number(record.get(key)) for key in ("step_seconds", "between_seconds"))
    whole = (step or 0.0) + (between or 0.0)
    if not step or whole <= 0:
        return {}
    bubble, ramp, starved = (
        min(max(_number(record.get(f"{key}_fraction")) or 0.0, 0.0), 1.0) * step
        for key in ("bubble", "ramp", "starved")
    )
    parts = {
        "data": min(max(_number(record.get("data_seconds")) or 0.0, 0.0), step),
        "ramp": ramp,
        "starved": starved,
        "idle": max(bubble - ramp - starved, 0.0),
        "between": between or 0.0,
    }
    parts["computing"] = max(whole - sum(parts.values()), 0.0)
    total = sum(parts.values())
    return {f"{name}_share": seconds / total for name, seconds in parts.items()}


def _status(found: Status) -> dict[str, Any]:
    """What became of the run, without paths."""
    plain = {
        "state": str(found.state),
        "step": found.step,
        "steps": found.steps,
        "since": found.since,
        "record_age_seconds": found.record_age_seconds,
        "steps_per_hour": found.steps_per_hour,
        "exit_code": found.exit_code,
        "checkpoint_step": found.checkpoint_step,
        "checkpoint_age_seconds": found.checkpoint_age_seconds,
    }
    words = {
        "says": found.says,
        "next": found.next,
        "failed": found.failed,
        "meaning": found.meaning,
    }
    plain |= {name: None if text is None else without_paths(text) for name, text in words.items()}
    return plain | {"attempts": [without_paths(line) for line in found.attempt_lines[-20:]]}


def without_paths(text: str) -> str:
    """Hide credentials, and the folders in which something lies."""
    return _PATH.sub("…/", scrubbed(text))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None  # means of larger ones may be infinite
