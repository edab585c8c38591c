"""The supervisors of a job as one: each drives a `Job`, and all of them get the same verdict.

They form a star of TCP connections to rank 0's supervisor, the hub. It is there before the rank's process is
forked off, so that the rank can hand on where it is, through the store where ranks meet (`comm/meeting.py`);
on rank 0's host the others find it by themselves. A supervisor that does not find it judges its own rank.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from tttscale.cluster.job_secret import JobSecret, job_secret
from tttscale.cluster.ranks import Ranks
from tttscale.errors import LaunchError
from tttscale.scrub import scrubbed
from tttscale.supervise import judge
from tttscale.supervise.beacon import beacon_name
from tttscale.supervise.court import Court
from tttscale.supervise.deadline import Rules
from tttscale.supervise.first_side import FirstSide
from tttscale.supervise.other_side import OtherSide
from tttscale.supervise.page import Page
from tttscale.supervise.seeker import Seeker
from tttscale.supervise.signs import Process, Watch, WatchedClock
from tttscale.supervise.talk import text_of
from tttscale.supervise.verdict import Ended, Verdict

_POLL_SECONDS = 0.02


def _print(line: str) -> None:
    with suppress(OSError, ValueError):  # it is no longer read
        print(scrubbed(line), file=sys.stderr, flush=True)


class Job:
    """One supervisor's side of the job. Single-threaded; only `settle` ever waits."""

    def __init__(
        self,
        page: Page,
        ranks: Ranks,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = _print,
        seek: Callable[[str, float], Seeker | None] = Seeker,
    ) -> None:
        """Listen if this is rank 0 of several, and leave on the page where; before the rank is forked off.

        Args:
            page: shared with the rank.
            ranks: who it is.
            clock: seconds.
            say: prints a line for people.
            seek: looks for the hub in the place of a rank that ended before it knew where that is.
        """
        self._page, self._rank = page, ranks.rank
        self._clock = WatchedClock(clock)
        self._pid = 0
        self._watch = Watch(page, self._process, self._clock)
        self.court = Court(ranks.world_size)
        """What this supervisor knows: rank 0's of all ranks, the others of their own."""
        self._rules_text = ""
        self._running = True
        self._left: int | None = None
        host = text_of(socket.gethostname())
        self.court.met(ranks.rank, host)
        side = FirstSide if ranks.rank == 0 else OtherSide
        self.side: FirstSide | OtherSide = side(
            page,
            ranks,
            self.court,
            _secret(ranks),
            host=host,
            beacon=beacon_name(ranks, os.environ),
            say=say,
            seek=seek,
        )
        """What it has to do with the others."""

    def watch(self, pid: int) -> None:
        """Take note of the rank's process, once it is forked off: whether it is stopped, or computes."""
        self._pid = pid

    def drop(self) -> None:
        """Close in the rank's process what only its supervisor uses; nothing is said to anyone."""
        self.side.drop()

    def poll(self) -> Verdict | None:
        """Send, receive and judge as far as that is possible at once; call it every 0.1 to 0.2 s.

        Returns:
            The verdict, once the other supervisors have it too.
        """
        sign = None
        if self._running:
            sign = self._watch.look()
            self.court.sign(self._rank, sign)
        self._read_rules()
        return self.side.poll(self._clock(), sign)

    def ended(self, ended: Ended) -> None:
        """Report that this supervisor's rank has failed."""
        now = self._clock()
        ended = replace(ended, cause=text_of(ended.cause))
        self._running = False
        self.court.ended(ended, now)
        self.side.ended(ended, now)

    def finished(self, code: int) -> None:
        """Report that this supervisor's rank has ended as it should, with 0 or 75."""
        self._running, self._left = False, code
        self.court.left(self._rank)
        self.side.left(code, self._clock())

    def settle(self, seconds: float) -> Verdict | None:
        """Wait for the verdict, or until there is nothing to wait for any more.

        After `ended`: for the verdict; if none has come by then, this supervisor's own. After `finished`:
        until the others know, and on rank 0 until all others have left or there is a verdict.

        Args:
            seconds: how long to wait, counted from the end of a search for the hub, which takes seconds, too.
        """
        until = time.monotonic() + seconds
        while (verdict := self.poll()) is None and time.monotonic() <= until:
            if self._left is not None and self.side.is_settled:
                break
            if self.side.seeks:
                until = time.monotonic() + seconds
            time.sleep(_POLL_SECONDS)
        verdict = verdict or self.side.verdict
        if verdict is None and any(m.failed for m in self.court.members.values()):
            verdict = judge.first_culprit(self.court.members, self.court.rules.sequence)
        return verdict

    def close(self) -> None:
        """Say farewell if the rank has ended as it should, and close all connections."""
        self.side.close(self._left, self._clock())

    def _process(self) -> Process:
        return Process.of(self._pid) if self._pid else Process()

    def _read_rules(self) -> None:
        text = self._page.text("watch")
        if text != self._rules_text:
            self._rules_text = text
            try:
                self.court.rules = Rules.of(text)
            except (ValueError, TypeError):  # the rank is still writing it
                self._rules_text = ""


def _secret(ranks: Ranks) -> JobSecret:
    try:
        return job_secret(os.environ, ranks)
    except LaunchError:  # the rank itself says so and ends
        return JobSecret(b"", "")
