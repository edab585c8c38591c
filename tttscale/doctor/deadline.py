"""A command that must end, whatever hangs: a dead file system, a rank that never comes."""

import os
import sys
import threading
from collections.abc import Callable


class Deadline:
    """While entered, ends the process when its time is over."""

    def __init__(self, seconds: float, end: Callable[[str], int]) -> None:
        """Start to count on entry.

        Args:
            seconds: from entry.
            end: called when they are over, with what was going on; returns the exit code.
        """
        self.stage = "the start"
        """What is going on."""
        self._end = end
        self._timer = threading.Timer(seconds, self._over)
        self._timer.daemon = True

    def __enter__(self) -> "Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _over(self) -> None:
        code = 1
        try:
            code = self._end(self.stage)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
