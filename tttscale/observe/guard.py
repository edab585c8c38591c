"""An observer may fail, the run may not: all that watches a run works inside one of these."""

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
    """Stands between a run and one observer: the first failure is said once, then the observer is off.

    Not for metrics.jsonl, which is the truth. Ctrl-C passes.

    Args:
        observer: What fails, as people call it.
        instead: What there is without it.
    """

    def __init__(self, observer: str, instead: str) -> None:
        self._observer, self._instead = observer, instead
        self.is_on = True
        """Whether it has not failed yet."""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Whatever happens inside, the run goes on."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Say what is lost; nothing more is said later."""
        if self.is_on:
            self.is_on = False
            warn(
                f"{self._observer} for the rest of this run: {_what(error)}; the run goes on, "
                f"{self._instead}"
            )


_left_behind = False


def leave_behind() -> None:
    """An observer still hangs: the process must end without waiting for it."""
    global _left_behind
    _left_behind = True


def is_left_behind() -> bool:
    """Whether an ordinary exit could hang."""
    return _left_behind


def warn(text: str) -> None:
    """One line for people, on stderr, if anybody can read it there."""
    with suppress(Exception):
        _log.warning("%s", scrubbed(text))


def _what(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words:.300}" if words else type(error).__name__


class SteadyStream:
    """stdout or stderr for a command whose work counts, whoever reads what it says.

    A letter that the terminal lacks is written as its code. Once nobody reads any more, or the disk behind it
    is full, that is said and the stream leads nowhere. As for the rest it is the stream it was.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._is_read = stream, name, True
        self.trouble: OSError | ValueError | None = None
        """Why nothing is written any more."""
        with suppress(Exception):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Write it, or not."""
        return self._try("write", text) or len(text)

    def writelines(self, lines: list[str]) -> None:
        """The same for several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what was written."""
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
                warn(f"{self._name} is not written any more: {_what(error)}; the command goes on")
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_result(text: str) -> None:
    """What a command was asked for; it has failed if that cannot be written, but not if nobody reads on.

    Raises:
        DataError: it cannot.
    """
    print(text, flush=True)
    trouble = getattr(sys.stdout, "trouble", None)
    if trouble is not None and not isinstance(trouble, BrokenPipeError):
        raise DataError(f"stdout: {_what(trouble)}. Send it where there is room.")


def steady_streams() -> None:
    """Let nothing that is printed end the process; stdin, stdout and stderr that were closed lead nowhere."""
    for descriptor in (
        0,
        1,
        2,
    ):  # or the next file that is opened would take the number, and the output
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
    """What is still in the stream's buffer would fail once more when the process ends."""
    with suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
