"""The other ranks' side of the job: it finds the hub, reports, and obeys; without the hub it judges alone."""

from collections.abc import Callable

from tttscale.cluster.job_secret import JobSecret
from tttscale.cluster.ranks import Ranks
from tttscale.supervise.beacon import Call
from tttscale.supervise.court import Court
from tttscale.supervise.first_side import BEFORE_ALL_CAME
from tttscale.supervise.page import Page
from tttscale.supervise.place import Place
from tttscale.supervise.seeker import CALL_SECONDS, Seeker
from tttscale.supervise.signs import Sign
from tttscale.supervise.spoke import CONNECT_SECONDS, Link, Spoke
from tttscale.supervise.verdict import Ended, Verdict

_FAREWELL_SECONDS = 5.0
"""How long a rank's end, if it is no failure, waits to be told."""


class OtherSide:
    """A spoke, once it is known where the hub is: by the beacon, the own rank, or a process that seeks it."""

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
        """Connect to nothing yet. Arguments are as for `FirstSide`; the court hears of the own rank only."""
        self._page, self._ranks, self._court = page, ranks, court
        self._secret, self._host, self._say, self._seek = secret, host, say, seek
        self._call = Call(beacon)
        self.spoke: Spoke | None = None
        self._place = ""
        """What the spoke was made of."""
        self._seeker: Seeker | None = None
        self._ended: tuple[Ended, float] | None = None
        self._left: tuple[int, float] | None = None
        self._sought = self._warned = False
        self.verdict: Verdict | None = None
        """The hub's, or that of this supervisor alone."""

    def drop(self) -> None:
        """Close all sockets, in the rank's process."""
        self._call.close()

    def poll(self, now: float, sign: Sign | None) -> Verdict | None:
        """Report and hear; the verdict once there is one."""
        self._find(now)
        if self.spoke is None:
            return None if self._seeks_still(now) else self._alone(now)
        self.spoke.poll(now, sign)
        late = self._left is not None and now - self._left[1] > _FAREWELL_SECONDS
        if late and self.spoke.link is Link.SEEKING:
            self.spoke.close()  # a hub that is not found by now has ended as well
        if self.spoke.verdict is not None:
            self.verdict = self.spoke.verdict
        elif self.spoke.link is Link.LOST:
            self.verdict = self._without_hub(now)
        elif self.spoke.link is Link.OVER:
            self._warn()
            return self._alone(now)
        return self.verdict

    # ---- finding the hub -------------------------------------------------------------------------

    def _find(self, now: float) -> None:
        text = self._page.text("hub")
        if self.spoke is None and not text and (text := self._call.poll(now)):
            self._page.say("hub", text)
        changed = self.spoke is not None and self.spoke.link is Link.SEEKING and text != self._place
        if text and (self.spoke is None or changed):
            self._connect(text, now)

    def _connect(self, text: str, now: float) -> None:
        try:
            place = Place.of(text)
        except ValueError:  # the rank is still writing it
            return
        if self.spoke is not None:
            self.spoke.close()
        ranks, self._place = self._ranks, text
        self.spoke = Spoke(place, self._secret, ranks.rank, ranks.world_size, self._host, now)
        if self._ended is not None:
            self.spoke.ended(*self._ended)
        if self._left is not None:
            self.spoke.left(*self._left)

    def _seeks_still(self, now: float) -> bool:
        """Whether the hub may still be found for a rank that ended without knowing it."""
        if self._ended is None:
            return False
        ended, at = self._ended
        if now - at < CALL_SECONDS:
            return True
        if not self._sought and ended.last.phase in BEFORE_ALL_CAME:
            self._seeker = self._seek("", now)
        self._sought = True
        found = "" if self._seeker is None else self._seeker.poll(now)
        if found:
            self._page.say("hub", found)
        if found is not None and self._seeker is not None:
            self._seeker.close()
            self._seeker = None
        return found != ""

    # ---- without it ------------------------------------------------------------------------------

    def _alone(self, now: float) -> Verdict | None:
        """Judge the death of the own rank; of all others nothing is known."""
        if self.verdict is None and self._ended is not None:
            self.verdict = self._court.failure(now)
        return self.verdict

    def _without_hub(self, now: float) -> Verdict | None:
        """Rank 0's supervisor is gone; a cause of the own rank counts more."""
        assert self.spoke is not None
        if self._left is not None:
            return None
        host, phase, step = self.spoke.first
        self._court.gone(0, host, now)
        verdict = self._court.failure(now)
        if verdict is not None and verdict.rank == 0:
            return Verdict(0, host, phase, step, verdict.cause, verdict.exit_code)
        return verdict

    def _warn(self) -> None:
        assert self.spoke is not None
        if self.spoke.joined or self._warned or self._left is not None:
            return
        self._warned = True
        self._say(
            f"WARNING: the supervisor of rank {self._ranks.rank} on {self._host} did not reach rank 0's "
            f"within {CONNECT_SECONDS:.0f} s. The run continues; if a rank fails, the first culprit may "
            "not be named. Open TCP at all ports between the hosts of the job."
        )

    # ---- the own rank ----------------------------------------------------------------------------

    def ended(self, ended: Ended, now: float) -> None:
        """Report that the own rank has failed."""
        self._ended = ended, now
        if self.spoke is not None:
            self.spoke.ended(ended, now)

    def left(self, code: int, now: float) -> None:
        """Report that the own rank has ended as it should."""
        self._left = code, now
        if self.spoke is not None:
            self.spoke.left(code, now)

    @property
    def seeks(self) -> bool:
        """Whether another process looks for the hub."""
        return self._seeker is not None

    @property
    def is_settled(self) -> bool:
        """Whether the hub has heard all that it must, and has nothing more to say: all ranks have ended.

        A rank that is done waits for that, so that it hears if another one fails at the very end.
        """
        if self.spoke is None:
            return True
        return not self.spoke.pending and self.spoke.link in (Link.LOST, Link.OVER)

    def close(self, left: int | None, now: float) -> None:
        """Close all connections."""
        self._call.close()
        for one in (self.spoke, self._seeker):
            if one is not None:
                one.close()
