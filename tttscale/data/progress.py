"""The progress of a build or a verification: a bar on a terminal, a line every 30 seconds in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tttscale.observe.guard import Guard
from tttscale.observe.terminal import is_watched

LOG_SECONDS = 30.0
VERBS = {
    "tokenize": "tokenizing",
    "copy": "copying ids",
    "write": "writing shards",
    "verify": "verifying",
    "read": "reading",
    "evaluate": "evaluating",
    "weights": "writing weights",
}


@dataclass(frozen=True)
class Progress:
    """The progress of this host."""

    phase: str
    """A key of `VERBS`."""
    done: int
    """What is done: bytes of sources of finished slices; shards; files; tokens of a prompt; sequences; bytes
    of weights."""
    total: int
    """This host's share of all."""
    documents: int = 0
    """Documents read since the command started."""
    text_bytes: int = 0
    """Bytes of their text."""
    tokens: int = 0
    """Their tokens."""


@contextmanager
def shown_progress(shown: bool = True) -> Iterator[Callable[[Progress], None]]:
    """Yield the function that `build_store` and `verify_store` report to.

    Args:
        shown: whether this rank shows anything.
    """
    if not shown:
        yield lambda state: None
        return
    guard = Guard("progress is not shown", "and reports its result at the end")
    with ExitStack() as stack:
        show: Callable[[Progress], None] | None = None
        with guard():
            show = stack.enter_context(_bar(guard)) if is_watched(sys.stderr) else _Log().show

        def guarded(state: Progress) -> None:
            """Show the state as long as that works."""
            if guard.is_on and show is not None:
                with guard():
                    show(state)

        yield guarded


class _Log:
    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def show(self, state: Progress) -> None:
        """A line, if the last one is old enough."""
        now = time.monotonic()
        if now - self._last >= LOG_SECONDS:
            self._last = now
            share = state.done / max(state.total, 1)
            rate = f", {_rate(state, now - self._began)}" if state.tokens else ""
            print(f"{VERBS[state.phase]}: {share:.1%}{rate}", file=sys.stderr, flush=True)


def _rate(state: Progress, seconds: float) -> str:
    return (
        f"{state.documents:,} documents, {state.tokens:,} tokens, "
        f"{state.text_bytes / 1e6 / max(seconds, 1e-9):,.1f} MB/s"
    )


@contextmanager
def _bar(guard: Guard) -> Iterator[Callable[[Progress], None]]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TextColumn("{task.percentage:>5.1f}%"),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )
    began = time.monotonic()
    bar = rich.Progress(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    try:
        tasks = {}

        def show(state: Progress) -> None:
            """Move the bar of the state's phase."""
            if state.phase not in tasks:
                tasks[state.phase] = bar.add_task(VERBS[state.phase], rate="")
            speed = state.text_bytes / 1e6 / max(time.monotonic() - began, 1e-9)
            rate = f"{state.tokens / 1e6:,.1f}M tokens, {speed:,.1f} MB/s" if state.tokens else ""
            bar.update(tasks[state.phase], total=state.total, completed=state.done, rate=rate)

        yield show
    finally:
        with guard():
            bar.stop()
