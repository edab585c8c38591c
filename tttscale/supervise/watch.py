"""What a supervisor does all day: signals, the end of its rank, the verdict of the job, its launcher."""

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from tttscale import codes
from tttscale.cluster.launcher import Link, broken_link, launcher_links
from tttscale.cluster.ranks import Ranks
from tttscale.scrub import scrubbed
from tttscale.supervise.alone import Alone
from tttscale.supervise.ending import (
    ENDED_AS_ASKED,
    code_of,
    is_interrupted,
    last_sign,
    one_line,
)
from tttscale.supervise.rank import Rank
from tttscale.supervise.report import Report
from tttscale.supervise.stacks import SIGNAL as STACKS
from tttscale.supervise.verdict import Ended, Verdict

_PASSED_ON = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
    *(signal.SIGTSTP, signal.SIGCONT),
)
SIGNALS = frozenset({*_PASSED_ON, STACKS, signal.SIGCHLD})
"""Blocked in the supervisor, which takes them one by one: none of them ends it."""
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM})
_POLL_SECONDS = 0.1
_LAUNCHER_SECONDS = 0.5
_SETTLE_SECONDS = 5.0
_LAUNCHER_ENDS_SECONDS = 3.0
_OTHERS_END_SECONDS, _SLICE_SECONDS = 60.0, 0.5
_REPEATS_SECONDS = 2.0
"""As in `tttscale.cluster.interrupts`: signals within this time count as one."""
_PATIENCE_SECONDS = 5.0
"""After a second signal that should end a rank at once, until it is killed."""
T = TypeVar("T")


class Others(Protocol):
    """The supervisors of all ranks (`tttscale.supervise.job`), or `Alone`."""

    def drop(self) -> None:
        """Close in the rank's process what only its supervisor uses."""
        ...

    def watch(self, pid: int) -> None:
        """Hear which process the rank is."""
        ...

    def poll(self) -> Verdict | None:
        """Return the verdict once there is one; never wait."""
        ...

    def ended(self, ended: Ended) -> None:
        """Hear that this rank has failed."""
        ...

    def finished(self, code: int) -> None:
        """Hear that this rank has ended as it should."""
        ...

    def settle(self, seconds: float) -> Verdict | None:
        """Wait for the verdict."""
        ...

    def close(self) -> None:
        """Leave the others."""
        ...


class Supervisor:
    """Watches one rank to its end, which is the job's."""

    def __init__(
        self, rank: Rank, ranks: Ranks, job: Others, environ: Mapping[str, str], host: str = ""
    ) -> None:
        self._rank, self._ranks, self._job = rank, ranks, job
        self._host = host or socket.gethostname()
        self._report = Report(rank, ranks, environ)
        self._links, self._looked_at = launcher_links(os.getpid()), time.monotonic()
        self._sent: dict[int, float] = {}
        """Signal -> when it was passed on first."""
        self._kill_at: float | None = None

    def run(self) -> int:
        """Watch the rank to its end.

        Returns:
            The exit code of the job.
        """
        try:
            return self._watch()
        finally:
            self._rank.kill()
            self._ask(self._job.close)

    def _watch(self) -> int:
        while True:
            self._take_signal()
            if (status := self._rank.status()) is not None:
                return self._rank_ended(code_of(status, self._sent))
            if (verdict := self._ask(self._job.poll)) is not None:
                return self._report.fail(verdict)
            if (lost := self._lost_launcher()) is not None:
                return self._launcher_lost(lost)
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self._rank.send(signal.SIGKILL)

    # ---- signals -------------------------------------------------------------------------------

    def _take_signal(self) -> None:
        """Wait a moment for a signal, and pass it on."""
        found = signal.sigtimedwait(SIGNALS, _POLL_SECONDS)
        if found is None or found.si_signo == signal.SIGCHLD:
            return
        number = found.si_signo
        if number == STACKS:
            self._report.stacks("asked for by SIGUSR2")
            return
        if number == signal.SIGTSTP:  # both, until this process is continued
            self._rank.send(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        self._rank.send(number)
        if number != signal.SIGCONT:
            self._note(number)

    def _note(self, number: int) -> None:
        now = time.monotonic()
        first = self._sent.setdefault(number, now)
        ends_it = number in _ENDING
        ignored = signal.getsignal(number) == signal.SIG_IGN  # by nohup; the rank does as well
        if ends_it and not ignored and now - first > _REPEATS_SECONDS and not self._kill_at:
            self._kill_at = now + _PATIENCE_SECONDS

    # ---- ends ----------------------------------------------------------------------------------

    def _rank_ended(self, code: int) -> int:
        if self._kill_at is not None and code == -signal.SIGKILL:
            code = 128 + max(self._sent, key=self._sent.__getitem__)
        if code == codes.FLAGS.number:  # before a job began, on all ranks alike
            return code
        if code in ENDED_AS_ASKED:
            self._ask(self._job.finished, code)
            verdict = self._others_end()
            return code if verdict is None else self._report.fail(verdict)
        verdict = self._judged(code, self._rank.page.text("cause"))
        if is_interrupted(code) or (self._is_unheard() and self._is_told_to_end()):
            return code
        return self._report.fail(verdict)

    def _is_unheard(self) -> bool:
        """Whether its rank is not the first, and ended before it knew where the supervisors meet."""
        return self._ranks.rank > 0 and not self._rank.page.text("hub")

    def _is_told_to_end(self) -> bool:
        """Wait whether the launcher ends the job: then the first rank has failed as well, and has spoken."""
        return signal.sigtimedwait(_ENDING, _LAUNCHER_ENDS_SECONDS) is not None

    def _others_end(self) -> Verdict | None:
        """Wait until no one needs this supervisor: that of rank 0 hears all others, who may take longer."""
        deadline = time.monotonic() + _OTHERS_END_SECONDS
        while (began := time.monotonic()) < deadline:
            verdict = self._ask(self._job.settle, _SLICE_SECONDS)
            if verdict is not None or time.monotonic() - began < _SLICE_SECONDS:
                return verdict
            told = signal.sigtimedwait(_ENDING, 0)
            if told is not None or broken_link(self._links) is not None:
                return None
        return None

    def _judged(self, code: int, cause: str) -> Verdict:
        """Tell the others how this rank has ended, and wait for the verdict."""
        last = last_sign(self._rank.page, time.monotonic())
        end = Ended(self._ranks.rank, self._host, code, one_line(scrubbed(cause)), last)
        self._ask(self._job.ended, end)
        verdict = self._ask(self._job.settle, _SETTLE_SECONDS)
        if verdict is None:  # the others do not answer
            alone = Alone()
            alone.ended(end)
            verdict = alone.poll()
        assert verdict is not None
        return verdict

    def _lost_launcher(self) -> Link | None:
        now = time.monotonic()
        if now - self._looked_at < _LAUNCHER_SECONDS:
            return None
        self._looked_at = now
        return broken_link(self._links)

    def _launcher_lost(self, lost: Link) -> int:
        self._rank.kill()
        cause = f"its launcher is gone ({lost.name}, process {lost.parent})"
        self._report.say(f"error: rank {self._ranks.rank} ends: {cause}")
        return self._report.fail(self._judged(codes.PEER.number, cause))

    def _ask(self, call: Callable[..., T], *arguments: object) -> T | None:
        """Call the job; if that fails, the rank is watched alone: training does not depend on it."""
        try:
            return call(*arguments)
        except Exception as error:
            self._report.say(
                f"the supervisor of rank {self._ranks.rank} watches it alone from now on: "
                f"{type(error).__name__}: {error}"
            )
            self._job = Alone()
            return None
