"""A rank's process in the hands of its supervisor: how it has ended, signals, stacks, and its death."""

import os
import signal
import time
from collections.abc import Callable

from tttscale.supervise.page import Page
from tttscale.supervise.stacks import Stacks

_STACKS_SECONDS = 1.0
_DEATH_SECONDS = 2.0
"""How long a killed process may take; one that waits for a dead disk may take for ever."""


class Rank:
    """The forked process. It is not reaped before the supervisor ends, so its id stays its own."""

    def __init__(self, pid: int, page: Page, stacks: Stacks) -> None:
        self.pid, self.page, self.stacks = pid, page, stacks

    def status(self) -> int | None:
        """Return its exit code, or below zero the signal that killed it; None while it runs."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.status() is None:
            os.kill(self.pid, number)

    def ask_stacks(self) -> None:
        """Have it write the stacks of its threads, which takes about a second if it cannot."""
        if self.status() is None:
            self.stacks.ask(self.pid, _STACKS_SECONDS)

    def kill(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Kill it, and wait until it is gone."""
        self.send(signal.SIGKILL)
        deadline = clock() + _DEATH_SECONDS
        while self.status() is None and clock() < deadline:
            time.sleep(0.01)
