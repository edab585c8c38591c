"""The supervisors of a job as one: each drives a `Job`, and all of them get the same verdict.

They form a star of TCP connections to rank 0's supervisor. It is made before the rank's process is forked
off, so that the rank can say where (`comm/meeting.py` hands it on through the store where ranks meet). A
supervisor that does not find the others still judges its own rank.
"""

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from tttscale.cluster.job_secret import JobSecret, job_secret
from tttscale.cluster.ranks import Ranks
from tttscale.errors import LaunchError
from tttscale.scrub import scrubbed
from tttscale.supervise import judge
from tttscale.supervise.court import Court
from tttscale.supervise.deadline import Rules
from tttscale.supervise.hub import Hub
from tttscale.supervise.page import Page
from tttscale.supervise.place import Place, listen
from tttscale.supervise.signs import Process, Sign, Watch, WatchedClock
from tttscale.supervise.spoke import CONNECT_SECONDS, Link, Spoke
from tttscale.supervise.talk import text_of
from tttscale.supervise.verdict import Ended, Verdict

HEARD_SECONDS = 2.0
"""How long the verdict may take to reach the others before this process ends."""
_POLL_SECONDS = 0.02
_TOKEN_BYTES = 16


def _print(line: str) -> None:
    print(scrubbed(line), file=sys.stderr, flush=True)


class Job:
    """One supervisor's side of the job. Single-threaded; only `settle` and `close` ever wait."""

    def __init__(
        self,
        page: Page,
        ranks: Ranks,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = _print,
    ) -> None:
        """Listen if this is rank 0 of several, and leave on the page where; before the rank is forked off.

        Args:
            page: shared with the rank.
            ranks: who it is.
            clock: seconds.
            say: prints a line for people.
        """
        self._page, self._ranks, self._say = page, ranks, say
        self._clock = WatchedClock(clock)
        self._host = text_of(socket.gethostname())
        self._pid = 0
        self._watch = Watch(page, self._process, self._clock)
        self._court = Court(ranks.world_size)
        self._secret = _secret(ranks)
        self._hub: Hub | None = None
        self._spoke: Spoke | None = None
        self._rules_text = ""
        self._sign: Sign | None = None
        self._ended: Ended | None = None
        self._left: int | None = None
        self._verdict: Verdict | None = None
        self._decided_at = 0.0
        self._warned = False
        self._court.met(ranks.rank, self._host)
        if ranks.rank == 0 and ranks.world_size > 1:
            self._listen()

    def watch(self, pid: int) -> None:
        """Take note of the rank's process, once it is forked off: whether it is stopped, or computes."""
        self._pid = pid

    def drop(self) -> None:
        """Close in the rank's process what only its supervisor uses; nothing is said to anyone."""
        if self._hub is not None:
            self._hub.close()

    def poll(self) -> Verdict | None:
        """Send, receive and judge as far as that is possible at once; call it every 0.1 to 0.2 s.

        Returns:
            The verdict, once the other supervisors have it too.
        """
        now = self._clock()
        running = self._ended is None and self._left is None
        if running:
            self._sign = self._watch.look()
            self._court.sign(self._ranks.rank, self._sign)
        self._read_rules()
        if self._ranks.rank == 0:
            return self._poll_hub(now)
        return self._poll_spoke(now, self._sign if running else None)

    def ended(self, ended: Ended) -> None:
        """Report that this supervisor's rank has failed."""
        now = self._clock()
        ended = replace(ended, cause=text_of(ended.cause))
        self._ended = ended
        self._court.ended(ended, now)
        if self._spoke is not None:
            self._spoke.ended(ended, now)

    def finished(self, code: int) -> None:
        """Report that this supervisor's rank has ended as it should, with 0 or 75."""
        self._left = code
        self._court.left(self._ranks.rank)
        if self._spoke is not None:
            self._spoke.left(code, self._clock())

    def settle(self, seconds: float) -> Verdict | None:
        """Wait for the verdict, or until there is nothing to wait for any more.

        After `ended`: for the verdict; if none has come by then, this supervisor's own. After `finished`:
        until the others know, and on rank 0 until all others have left or there is a verdict.
        """
        until = time.monotonic() + seconds
        while (verdict := self.poll()) is None and not self._is_settled():
            if time.monotonic() > until:
                break
            time.sleep(_POLL_SECONDS)
        if verdict is None:
            verdict = self._verdict
        if verdict is None and self._ended is not None:
            verdict = judge.first_culprit(self._court.members, self._court.rules.sequence)
        return verdict

    def close(self) -> None:
        """Say farewell if the rank has ended as it should, and close all connections."""
        if self._hub is not None:
            if self._left is not None and self._verdict is None:
                self._hub.leave(self._left, self._clock())
            self._hub.close()
        if self._spoke is not None:
            self._spoke.close()

    # ---- rank 0 ----------------------------------------------------------------------------------

    def _listen(self) -> None:
        token = secrets.token_hex(_TOKEN_BYTES)
        try:
            listener, addresses = listen(self._ranks)
        except OSError as error:
            reason = error.strerror or error
            self._say(f"supervisors of this job do not meet: rank 0's cannot listen ({reason})")
            return
        place = Place(addresses, listener.getsockname()[1], token)
        self._hub = Hub(listener, self._secret, token, self._court, self._host)
        self._page.say("hub", place.text())

    def _poll_hub(self, now: float) -> Verdict | None:
        if self._hub is not None:
            self._hub.poll(now)
        if self._verdict is None:
            self._verdict = self._court.failure(now)
        if self._verdict is None:
            self._verdict, line = self._court.hang(now)
            if line:
                self._say(line)
        if self._verdict is None:
            return None
        if self._hub is None:
            return self._verdict
        if not self._decided_at:
            self._decided_at = now
        self._hub.tell(self._verdict, now)
        heard = self._hub.is_heard or now - self._decided_at >= HEARD_SECONDS
        return self._verdict if heard else None

    # ---- other ranks -----------------------------------------------------------------------------

    def _poll_spoke(self, now: float, sign: Sign | None) -> Verdict | None:
        if self._spoke is None:
            self._spoke = self._new_spoke(now)
        spoke = self._spoke
        if spoke is None:
            return self._alone(now)
        spoke.poll(now, sign)
        if spoke.verdict is not None:
            self._verdict = spoke.verdict
        elif spoke.link is Link.LOST:
            self._verdict = self._without_hub(now)
        elif spoke.link is Link.OVER:
            self._warn()
            return self._alone(now)
        return self._verdict

    def _new_spoke(self, now: float) -> Spoke | None:
        text = self._page.text("hub")
        if not text:
            return None
        try:
            place = Place.of(text)
        except ValueError:  # the rank is still writing it
            return None
        ranks = self._ranks
        spoke = Spoke(place, self._secret, ranks.rank, ranks.world_size, self._host, now)
        if self._ended is not None:
            spoke.ended(self._ended, now)
        if self._left is not None:
            spoke.left(self._left, now)
        return spoke

    def _alone(self, now: float) -> Verdict | None:
        """Judge the own rank only: deaths; whoever waits waits for ranks of which nothing is known."""
        if self._verdict is None and self._ended is not None:
            self._verdict = self._court.failure(now)
        return self._verdict

    def _without_hub(self, now: float) -> Verdict | None:
        """Rank 0's supervisor is gone; a cause of the own rank counts more."""
        assert self._spoke is not None
        if self._left is not None:
            return None
        host, phase, step = self._spoke.first
        self._court.gone(0, host, now)
        verdict = self._court.failure(now)
        if verdict is not None and verdict.rank == 0:
            return Verdict(0, host, phase, step, verdict.cause, verdict.exit_code)
        return verdict

    def _warn(self) -> None:
        assert self._spoke is not None
        if self._spoke.joined or self._warned:
            return
        self._warned = True
        self._say(
            f"WARNING: the supervisor of rank {self._ranks.rank} on {self._host} did not reach rank 0's "
            f"within {CONNECT_SECONDS:.0f} s. The run continues; if a rank fails, the first culprit may "
            "not be named. Open TCP at all ports between the hosts of the job."
        )

    # ---- all -------------------------------------------------------------------------------------

    def _process(self) -> Process:
        return Process.of(self._pid) if self._pid else Process()

    def _read_rules(self) -> None:
        text = self._page.text("watch")
        if text != self._rules_text:
            self._rules_text = text
            try:
                self._court.rules = Rules.of(text)
            except (ValueError, TypeError):  # the rank is still writing it
                self._rules_text = ""

    def _is_settled(self) -> bool:
        """Whether waiting longer changes nothing."""
        if self._left is None:
            return False
        if self._hub is not None:
            return self._verdict is None and self._court.is_over
        return self._spoke is None or not self._spoke.pending


def _secret(ranks: Ranks) -> JobSecret:
    try:
        return job_secret(os.environ, ranks)
    except LaunchError:  # the rank itself says so and ends
        return JobSecret(b"", "")
