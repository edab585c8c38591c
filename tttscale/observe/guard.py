"""Guards: an observer (console, wandb, plots) may fail without ending the run."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tttscale.errors import DataError
from tttscale.scrub import scrubbed

_log = logging.getLogger(__name__)


class Guard:
    """Stands between a run and one observer: its first failure is said once, then the observer is off.

    Not for metrics.jsonl, which a run cannot do without. Ctrl-C passes.
    """

    def __init__(self, observer: str, instead: str) -> None:
        """Switch the observer on.

        Args:
            observer: what fails, as the message begins.
            instead: what remains, as the message ends.
        """
        self._observer, self._instead = observer, instead
        self.is_on = True
        """Whether the observer has not failed yet."""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Catch whatever fails inside."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Say what is lost, once, and switch the observer off."""
        if self.is_on:
            self.is_on = False
            warn(
                f"{self._observer} for the rest of this run: {_what(error)}; the run continues, "
                f"{self._instead}"
            )


_left_behind = False


def leave_behind() -> None:
    """Note that an observer still hangs: the process must end without waiting for it."""
    global _left_behind
    _left_behind = True


def is_left_behind() -> bool:
    """Return whether an ordinary exit could hang."""
    return _left_behind


def warn(text: str) -> None:
    """Print one line on stderr, if that is possible."""
    with suppress(Exception):
        _log.warning("%s", scrubbed(text))


def _what(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words:.300}" if words else type(error).__name__


class SteadyStream:
    """stdout or stderr of a command that must finish its work even if its output is not read.

    A character that the terminal lacks is written as its code. When the reader has closed its end or the disk
    is full, that is said once and the stream is connected to the null device. All else is the stream's own.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._is_read = stream, name, True
        self.trouble: OSError | ValueError | None = None
        """Why writing has stopped; None while it works."""
        with suppress(Exception):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Write the text, or drop it once writing has failed."""
        return self._try("write", text) or len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        self._try("flush")

    def _try(self, method: str, *arguments: Any) -> Any:
        if not self._is_read:
            return None
        try:
            return getattr(self._stream, method)(*arguments)
        except (OSError, ValueError) as error:
            self._is_read, self.trouble = False, error
            lead_nowhere(self._stream)
            if self._name != "stderr":
                warn(f"{self._name} is not written any more: {_what(error)}; the command continues")
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_result(text: str) -> None:
    """Print the result of a command. The command fails if it cannot be written, not if the reader stops.

    Raises:
        DataError: it cannot be written.
    """
    print(text, flush=True)
    trouble = getattr(sys.stdout, "trouble", None)
    if trouble is not None and not isinstance(trouble, BrokenPipeError):
        raise DataError(f"stdout: {_what(trouble)}. Send it where there is room.")


def steady_streams() -> None:
    """Let no print end the process; stdin, stdout and stderr that were closed become the null device."""
    for descriptor in (
        0,
        1,
        2,
    ):  # or the next file to be opened would get the number, and the output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
        if not isinstance(stream, SteadyStream):
            setattr(sys, name, SteadyStream(stream, name))


def lead_nowhere(stream: TextIO) -> None:
    """Connect a stream to the null device: its buffer would fail once more when the process ends."""
    with suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
