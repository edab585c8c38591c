"""Does a person watch? Bars that redraw themselves are for people, who may also stop the terminal."""

import io
import os
import select
import time
from typing import TextIO

PATIENCE_SECONDS = 1.0
"""So long a reader may hold up the run, once; while nobody reads after that, lines are left out."""


def is_watched(stream: TextIO) -> bool:
    """Whether `stream` is a terminal; under Open MPI it only looks like one.

    mpirun gives its processes a pseudo-terminal even if its own output goes to a file.
    """
    return stream.isatty() and "OMPI_COMM_WORLD_RANK" not in os.environ


def takes_more(descriptor: int, patience_seconds: float) -> bool:
    """Whether a pipe, terminal or file takes a line, now or soon."""
    watch = select.poll()
    watch.register(descriptor, select.POLLOUT)
    return bool(watch.poll(1000 * patience_seconds))


class Terminal(io.TextIOBase):
    """The terminal behind a stream, opened anew so that nobody waits for it: after Ctrl-S, or a lost line.

    What it does not take in time is left out.

    Raises:
        OSError: there is none, or it cannot be opened.
    """

    def __init__(self, stream: TextIO) -> None:
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(os.ttyname(stream.fileno()), flags)
        self._encoding = stream.encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's own."""
        return self._encoding

    def fileno(self) -> int:
        """As the system knows it."""
        return self._descriptor

    def isatty(self) -> bool:
        """It is one."""
        return True

    def write(self, text: str) -> int:
        """As much of it as is taken in time."""
        data = text.encode(self._encoding, "backslashreplace")
        until = time.monotonic() + PATIENCE_SECONDS
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                if not takes_more(self._descriptor, max(0.0, until - time.monotonic())):
                    break
        return len(text)

    def close(self) -> None:
        """Closing twice is fine."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)
