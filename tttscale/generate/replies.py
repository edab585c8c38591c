"""What the command does with a session: texts are read with progress, replies go to stdout."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tttscale.cluster.interrupts import Interrupts
from tttscale.data.progress import Progress, shown_progress
from tttscale.errors import ConfigError, DataError
from tttscale.observe.terminal import is_watched
from tttscale.reading import reason

if TYPE_CHECKING:
    from tttscale.generate.session import Session

_FEW_TOKENS = 4096
"""So many are read without a word."""


class Writer:
    """Replies on stdout, piece by piece or whole."""

    def __init__(self, streams: bool) -> None:
        self._streams = streams

    def reply(self, pieces: Iterator[str]) -> None:
        """Write one; a reader that has gone ends it."""
        held: list[str] = []
        try:
            for piece in pieces:
                if self._streams:
                    print(piece, end="", flush=True)
                else:
                    held.append(piece)
                if getattr(sys.stdout, "trouble", None) is not None:
                    break
        finally:
            print("".join(held), flush=True)

    def check(self) -> None:
        """Raise DataError if not all could be written, and not because the reader stopped."""
        trouble = getattr(sys.stdout, "trouble", None)
        if trouble is not None and not isinstance(trouble, BrokenPipeError):
            raise DataError(f"stdout: {reason(trouble)}. Send it where there is room.")


def read_text(session: "Session", text: bytes) -> None:
    """Read a text; the progress of a long one is shown."""
    with shown_progress(len(text) > _FEW_TOKENS) as progress:
        session.read(text, lambda done, total: progress(Progress("read", done, total)))


def converse(session: "Session", reply: Callable[[], None]) -> None:
    """Read lines and reply, until the input ends.

    Args:
        session: reads the lines.
        reply: writes what follows a line.
    """
    if Interrupts.current is not None:  # a reply can be stopped without an end of all
        Interrupts.current.release()
    shown = is_watched(sys.stderr) and sys.stdin.isatty()
    while True:
        if shown:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        with _stoppable():
            read_text(session, line.rstrip(b"\r\n"))
            reply()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C ends what is inside, and a mistake in a line does; the next line can come."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
