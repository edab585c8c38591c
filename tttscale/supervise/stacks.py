"""The Python stacks of a rank's threads, written by the rank itself when a signal comes.

The handler is C code that needs neither Python's lock nor memory, so it also works in a rank that is in an
endless loop, or in a library that holds the lock. The same memory takes the stacks of a crash.
"""

import ctypes
import faulthandler
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

SIGNAL = signal.SIGUSR2
_QUIET_SECONDS = 0.1
_FRAMES = 6
_LONGEST_BYTES = 1 << 20


def stacks_file(folder: Path, rank: int) -> Path:
    """Return where a rank's stacks are written."""
    return folder / f"stacks-rank-{rank}.txt"


class Stacks:
    """Memory that a rank and its supervisor share; made before the rank is forked off."""

    def __init__(self) -> None:
        self._file = os.memfd_create("stacks")

    def listen(self) -> None:
        """In the rank: write the stacks of all threads when the signal comes, and when it crashes."""
        faulthandler.register(SIGNAL, file=self._file, all_threads=True)
        if not faulthandler.is_enabled():  # by PYTHONFAULTHANDLER, for stderr
            faulthandler.enable(file=self._file, all_threads=True)

    def ask(self, pid: int, seconds: float) -> None:
        """In the supervisor: have a process of its own write its stacks, also one that was stopped.

        Args:
            pid: the rank's, which is not reaped yet.
            seconds: to wait for them.
        """
        before = size = self._size()
        _signal_main_thread(pid)
        os.kill(pid, signal.SIGCONT)
        changed = time.monotonic()
        deadline = changed + seconds
        while (now := time.monotonic()) < deadline:
            if self._size() != size:
                size, changed = self._size(), now
            elif size > before and now - changed > _QUIET_SECONDS:
                return
            time.sleep(0.01)

    def text(self) -> str:
        """Return all that was written; empty if nothing was."""
        # The rank has the same file position: it is left where it is.
        return os.pread(self._file, _LONGEST_BYTES, 0).decode(errors="replace")

    def innermost(self) -> list[str]:
        """Return the innermost frames of the thread that handled the signal: as a rule, the main one."""
        last = re.split(r"^(?=Current thread )", self.text(), flags=re.M)[-1]
        lines = [line.strip() for line in last.splitlines() if line.startswith("  File ")]
        return lines[:_FRAMES]

    def _size(self) -> int:
        return os.fstat(self._file).st_size


def _signal_main_thread(pid: int) -> None:
    """Send the signal to the thread that matters: another one would take it while that one moves on."""
    with suppress(OSError, AttributeError):  # an old C library does not have it
        if ctypes.CDLL(None).tgkill(pid, pid, int(SIGNAL)) == 0:
            return
    os.kill(pid, SIGNAL)
