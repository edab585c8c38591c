"""`tttscale launch again`: start a command again while that may help. No torch here.

For places without a scheduler that does it: a bare machine, a pod. The command may be a launcher that starts
the ranks of a run. torchrun and others end with 1 whatever has become of the run; then the run's own exit
code is read from its folder.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tttscale.cluster.interrupts import Interrupts
from tttscale.codes import CODES, DONE, LOOP, PEER, SAVED
from tttscale.config import load_config
from tttscale.config.shipped import is_config
from tttscale.errors import LaunchError, TTTScaleError
from tttscale.supervise.attempts import (
    RESTARTS,
    TOLD_TO_END,
    Attempt,
    crash_loop,
    describe_loop,
    is_alive,
    read_attempts,
    restarts,
)
from tttscale.train.checkpoint.folder import CheckpointFolder

_COUNT = RESTARTS[0]
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_LONGEST_PAUSE_SECONDS = 300.0
_SETTLE_SECONDS = 20.0
"""How long a run may take to end after its launcher."""
_KNOWN = {code.number: code for code in CODES if code == DONE or 64 <= code.number < 128}
"""Codes that only the command itself ends with; 1 and 137 are also those of launchers and shells."""


@dataclass(frozen=True)
class WatchedRun:
    """The run that a command trains, as far as its folder tells."""

    folder: Path
    max_attempts: int

    def saved_step(self) -> int:
        """Return the step of its newest checkpoint; 0 without one."""
        try:
            return next(iter(CheckpointFolder(self.folder / "checkpoints").steps()), 0)
        except OSError:
            return 0

    def last(self) -> Attempt | None:
        """Return its last start; None before the first."""
        return next(reversed(read_attempts(self.folder)), None)

    def loop(self) -> str:
        """Say what is known of a crash loop; empty without one."""
        step = self.saved_step()
        row = crash_loop(read_attempts(self.folder), step, self.max_attempts)
        return describe_loop(row, step) if row else ""


def run_of(command: Sequence[str]) -> WatchedRun | None:
    """Find the run that a command trains: its first word that is a configuration, and KEY=VALUEs after it.

    Returns:
        None if there is none that loads: the command itself will say why.
    """
    for place, word in enumerate(command):
        if not is_config(word):
            continue
        rest = list(command[place + 1 :])
        if "--" in rest:  # options of a launcher follow
            rest = rest[: rest.index("--")]
        try:
            config = load_config(Path(word), [w for w in rest if "=" in w and w[:1] != "-"])
        except TTTScaleError:
            return None
        return WatchedRun(Path(config.run.dir) / config.run.name, config.checkpoint.max_attempts)
    return None


class Again:
    """Starts a command, waits for its end, and starts it again while its exit code is one to retry."""

    def __init__(
        self,
        command: Sequence[str],
        run: WatchedRun | None,
        *,
        max_restarts: int,
        pause_seconds: float,
        environ: Mapping[str, str],
        pause: Callable[[float], Any] | None = None,
    ) -> None:
        """Take the command.

        Args:
            command: program and arguments.
            run: the run that it trains, if that is known.
            max_restarts: how often it is started again at most.
            pause_seconds: before the second start; it doubles with each failure without progress.
            environ: for the command.
            pause: waits for so many seconds, or until a signal comes.
        """
        self._command, self._run = list(command), run
        self._max_restarts, self._pause_seconds = max_restarts, pause_seconds
        self._environ = dict(environ)
        _, self._count = restarts({_COUNT: self._environ.get(_COUNT, "")})
        self._told = threading.Event()
        self._pause = pause or self._told.wait
        self._signal = 0
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Run the command until it ends for good; call this in the main thread.

        Returns:
            The exit code of the last start: the run's own, where that is known. `LOOP` if starting it again
            leads nowhere.

        Raises:
            LaunchError: the program cannot be started.
        """
        if Interrupts.current is not None:
            Interrupts.current.release()
        heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # as by nohup
        before = {number: signal.signal(number, self._hear) for number in heard}
        try:
            return self._run_all()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run_all(self) -> int:
        failures = 0  # in a row, without a newer checkpoint
        for restart in range(self._max_restarts + 1):
            saved = self._saved_step()
            code = self._once(restart)
            known = _KNOWN.get(code)
            if self._told.is_set() or known is None or not known.retry:
                return self._ended(code)
            progress = code == SAVED.number or self._saved_step() > saved
            failures = 0 if progress else failures + 1
            if text := "" if self._run is None else self._run.loop():
                _say(f"{text}It is not started again. See to the cause, then start it by hand.")
                return LOOP.number
            what = f"the command ended with {code} ({known.name})"
            if restart == self._max_restarts:
                _say(f"{what} and was started again {restart} times already (--max-restarts)")
                return code
            seconds = min(_LONGEST_PAUSE_SECONDS, self._pause_seconds * 2 ** max(0, failures - 1))
            _say(f"{what}; start {restart + 1} of {self._max_restarts} again in {seconds:.3g} s")
            self._pause(seconds)
            if self._told.is_set():
                return self._ended(code)
        raise AssertionError("the last round returns")

    def _once(self, restart: int) -> int:
        """Run the command once; return its exit code, or the run's own where a launcher hides it."""
        before = None if self._run is None else self._run.last()
        self._environ[_COUNT] = str(self._count + restart)
        try:
            self._child = subprocess.Popen(self._command, env=self._environ)
        except OSError as error:
            raise LaunchError(
                f"{self._command[0]}: it cannot be started: {error.strerror or error}. Give the command "
                "after --, such as: tttscale launch again -- tttscale train CONFIG"
            ) from None
        if self._signal:  # it came meanwhile
            self._child.send_signal(self._signal)
        code = self._child.wait()
        self._child = None
        if code in _KNOWN:
            return code
        return self._code_of_run(before, code if code >= 0 else 128 - code)

    def _code_of_run(self, before: Attempt | None, code: int) -> int:
        """Find out what has become of the run; `code` is what the command ended with."""
        number = before.start.attempt if before is not None else 0
        deadline = time.monotonic() + _SETTLE_SECONDS
        while self._run is not None and (last := self._run.last()) is not None:
            if last.start.attempt <= number:
                break  # this time it did not come so far
            if last.end is not None:
                return last.end.code
            if is_alive(last.start) is False:
                return PEER.number
            if time.monotonic() > deadline:
                _say(f"the command has ended with {code}, but its run has not: {last.line()}")
                return code
            time.sleep(0.2)
        return PEER.number if code > 128 and code not in TOLD_TO_END else code

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # Launchers hand SIGTERM on to their ranks, and SIGUSR1 would end them.
        self._signal = signal.SIGTERM if number == signal.SIGUSR1 else number
        self._told.set()
        if self._child is not None:
            self._child.send_signal(self._signal)

    def _ended(self, code: int) -> int:
        if self._told.is_set():
            name = signal.Signals(self._signal).name
            _say(f"the command ended with {code} after {name}; it is not started again")
        return code

    def _saved_step(self) -> int:
        return 0 if self._run is None else self._run.saved_step()


def _say(text: str) -> None:
    print(f"again: {text}", file=sys.stderr, flush=True)
