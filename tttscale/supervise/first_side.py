"""Rank 0's side of the job: it hears all others, decides, and stays until they have the verdict."""

import secrets
from collections.abc import Callable

from tttscale.cluster.job_secret import JobSecret
from tttscale.cluster.ranks import Ranks
from tttscale.supervise.beacon import Beacon
from tttscale.supervise.court import Court
from tttscale.supervise.hub import Hub
from tttscale.supervise.page import Page, Phase
from tttscale.supervise.place import LOOPBACK, Place, listen
from tttscale.supervise.seeker import CALL_SECONDS, Seeker
from tttscale.supervise.signs import Sign
from tttscale.supervise.verdict import Ended, Verdict

HEARD_SECONDS = 2.0
"""How long the verdict may take to reach the others before this process ends."""
COME_SECONDS = 7.0
"""How long rank 0 stays with a verdict for supervisors that have not come yet."""
BEFORE_ALL_CAME = (Phase.START, Phase.MEET)
"""Where ranks are that others may still wait for at the meeting."""
_TOKEN_BYTES = 16


class FirstSide:
    """A hub and what leads others to it. Without other ranks, or if it cannot listen, the court alone."""

    def __init__(
        self,
        page: Page,
        ranks: Ranks,
        court: Court,
        secret: JobSecret,
        *,
        host: str,
        beacon: str,
        say: Callable[[str], None],
        seek: Callable[[str, float], Seeker | None],
    ) -> None:
        """Listen, and leave on the page where.

        Args:
            page: shared with the rank.
            ranks: who it is.
            court: decides.
            secret: of the job.
            host: of this process.
            beacon: name of `tttscale.supervise.beacon`.
            say: prints a line for people.
            seek: makes a `Seeker`.
        """
        self._page, self._one_host = page, ranks.one_host
        self._court, self._say, self._seek = court, say, seek
        self.hub: Hub | None = None
        self._beacon: Beacon | None = None
        self._seeker: Seeker | None = None
        self._sought = False
        self._ended: tuple[Ended, float] | None = None
        self._decided: tuple[Verdict, float] | None = None
        if ranks.world_size > 1:
            self._listen(ranks, secret, host, beacon)

    def _listen(self, ranks: Ranks, secret: JobSecret, host: str, beacon: str) -> None:
        token = secrets.token_hex(_TOKEN_BYTES)
        try:
            listener, addresses = listen(ranks)
        except OSError as error:
            reason = error.strerror or error
            self._say(f"supervisors of this job do not meet: rank 0's cannot listen ({reason})")
            return
        place = Place(addresses, listener.getsockname()[1], token)
        self.hub = Hub(listener, secret, token, self._court, host)
        self._page.say("hub", place.text())
        here = place if addresses else place.with_addresses(LOOPBACK)
        self._beacon = Beacon(beacon, here.text())

    def drop(self) -> None:
        """Close all sockets, in the rank's process."""
        if self.hub is not None:
            self.hub.close()
        if self._beacon is not None:
            self._beacon.close()

    def poll(self, now: float, sign: Sign | None) -> Verdict | None:
        """Hear the others and decide; the verdict once they have it."""
        if self.hub is not None:
            self.hub.poll(now)
        if self._beacon is not None:
            self._beacon.poll(now)
        if self._decided is None and (verdict := self._judge(now)) is not None:
            self._decided = verdict, now
        self._stand_in(now)
        if self._decided is None:
            return None
        verdict, decided_at = self._decided
        if self.hub is None:
            return verdict
        self.hub.tell(verdict, now)
        heard = self.hub.is_heard and self._court.all_came
        stay = HEARD_SECONDS if self._court.all_came else COME_SECONDS
        return verdict if heard or now - decided_at >= stay else None

    def _judge(self, now: float) -> Verdict | None:
        verdict = self._court.failure(now)
        if verdict is None:
            verdict, line = self._court.hang(now)
            if line:
                self._say(line)
        return verdict

    def _stand_in(self, now: float) -> None:
        """Let others find the hub at the meeting, to which this rank will not come any more."""
        if self._sought or self._ended is None or self._one_host:
            return
        ended, at = self._ended
        early = ended.last.phase in BEFORE_ALL_CAME and not self._court.all_came
        if early and now - at >= CALL_SECONDS:
            self._sought = True
            self._seeker = self._seek(self._page.text("hub"), now)

    def ended(self, ended: Ended, now: float) -> None:
        """Note that the own rank has failed."""
        self._ended = ended, now

    def left(self, code: int, now: float) -> None:
        """Note that the own rank has ended as it should."""

    @property
    def seeks(self) -> bool:
        """Whether another process stands in for the rank."""
        return self._seeker is not None

    @property
    def is_settled(self) -> bool:
        """Whether no rank is left that may need this supervisor."""
        return self._decided is None and (self.hub is None or self._court.is_over)

    @property
    def verdict(self) -> Verdict | None:
        """What was decided, whether or not the others have it."""
        return None if self._decided is None else self._decided[0]

    def close(self, left: int | None, now: float) -> None:
        """Leave the others, who are told if rank 0 has ended as it should."""
        if self.hub is not None and left is not None and self._decided is None:
            self.hub.leave(left, now)
        self.drop()
        if self._seeker is not None:
            self._seeker.close()
