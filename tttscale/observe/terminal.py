"""Terminals: whether a person watches, and writing to one that may be stopped (Ctrl-S)."""

import io
import os
import select
import time
from typing import TextIO

PATIENCE_SECONDS = 1.0
"""The longest that a slow reader may hold up the run, once; after that, lines are left out until it reads."""


def is_watched(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal with a reader; under Open MPI it only looks like one.

    mpirun gives its processes a pseudo-terminal even if its own output goes to a file.
    """
    return stream.isatty() and "OMPI_COMM_WORLD_RANK" not in os.environ


def takes_more(descriptor: int, patience_seconds: float) -> bool:
    """Return whether a pipe, terminal or file takes a line within `patience_seconds`."""
    watch = select.poll()
    watch.register(descriptor, select.POLLOUT)
    return bool(watch.poll(1000 * patience_seconds))


class Terminal(io.TextIOBase):
    """The terminal of a stream, opened again without blocking: after Ctrl-S or a lost line nothing waits.

    What it does not take in time is left out.

    Raises:
        OSError: the stream is not a terminal, or it cannot be opened.
    """

    def __init__(self, stream: TextIO) -> None:
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(os.ttyname(stream.fileno()), flags)
        self._encoding = stream.encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return self._encoding

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write as much as the terminal takes in time; claim all of it."""
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
        """Close the terminal; closing twice is fine."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)
