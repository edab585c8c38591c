"""How far a build is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tttscale.data.build import Progress

LOG_SECONDS = 30.0
VERBS = {"tokenize": "tokenizing", "write": "writing shards"}


@contextmanager
def build_progress(shown: bool = True) -> Iterator[Callable[["Progress"], None]]:
    """Gives what `build_store` calls now and then.

    Args:
        shown: Whether this rank shows anything.
    """
    if not shown:
        yield lambda state: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Log().show


class _Log:
    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def show(self, state: "Progress") -> None:
        now = time.monotonic()
        if now - self._last >= LOG_SECONDS:
            self._last = now
            share = state.done_bytes / max(state.total_bytes, 1)
            text = f"{VERBS[state.phase]}: {share:.1%}, {_rate(state, now - self._began)}"
            print(text, file=sys.stderr, flush=True)


def _rate(state: "Progress", seconds: float) -> str:
    return (
        f"{state.documents:,} documents, {state.tokens:,} tokens, "
        f"{state.text_bytes / 1e6 / max(seconds, 1e-9):,.1f} MB/s"
    )


@contextmanager
def _bar() -> Iterator[Callable[["Progress"], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {}

        def show(state: "Progress") -> None:
            if state.phase not in tasks:
                tasks[state.phase] = bar.add_task(VERBS[state.phase], rate="")
            rate = _rate(state, time.monotonic() - began) if state.tokens else ""
            bar.update(
                tasks[state.phase], total=state.total_bytes, completed=state.done_bytes, rate=rate
            )

        yield show
