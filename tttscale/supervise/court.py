"""Keeps what is known of every rank, and finds when there is a verdict. No sockets, no clock of its own."""

from collections.abc import Iterable, Mapping

from tttscale import codes
from tttscale.supervise import judge, waits
from tttscale.supervise.deadline import Rules, limit_seconds, said_seconds
from tttscale.supervise.member import Member, State
from tttscale.supervise.page import Phase
from tttscale.supervise.signs import Kind, Sign
from tttscale.supervise.verdict import Ended, Verdict

_LOOK_SECONDS = 0.5
"""Between two looks for a hang: each goes over all ranks."""
SAID_AGAIN_SECONDS = 300.0
_TOGETHER_SECONDS = 3.0


class Court:
    """What rank 0's supervisor knows of all ranks. Times are arguments: seconds of one clock."""

    def __init__(self, world_size: int) -> None:
        """Know nothing yet."""
        self.members = {rank: Member(rank) for rank in range(world_size)}
        self.rules = Rules()
        self._first_failure: float | None = None
        self._looked_at = self._said_at = float("-inf")

    def met(self, rank: int, host: str) -> None:
        """Note that a rank's supervisor has come."""
        member = self.members[rank]
        member.state, member.host = State.HERE, host

    def sign(self, rank: int, sign: Sign) -> None:
        """Note a sign of life."""
        self.members[rank].sign = sign

    def ended(self, ended: Ended, at: float) -> None:
        """Note that a rank has failed at a time."""
        member = self.members[ended.rank]
        if not member.failed:
            member.ended, member.host = ended, member.host or ended.host
            self._fail(member, State.ENDED, at)

    def lost(self, rank: int, at: float) -> None:
        """Note that a rank's supervisor went without a word at a time."""
        member = self.members[rank]
        if member.state == State.HERE:
            self._fail(member, State.LOST, at)

    def gone(self, rank: int, host: str, at: float) -> None:
        """Note that a supervisor whose word this one has only from others is lost."""
        if self.members[rank].state == State.UNSEEN:
            self.met(rank, host)
        self.lost(rank, at)

    def left(self, rank: int) -> None:
        """Note that a rank has ended as it should."""
        self.members[rank].state = State.LEFT

    def _fail(self, member: Member, state: State, at: float) -> None:
        member.state, member.at = state, at
        if self._first_failure is None:
            self._first_failure = at

    @property
    def all_came(self) -> bool:
        """Whether every rank's supervisor has come."""
        return all(m.state != State.UNSEEN for m in self.members.values())

    @property
    def is_over(self) -> bool:
        """Whether no rank is left whose supervisor has come."""
        return all(m.state in (State.LEFT, State.UNSEEN) for m in self.members.values())

    def failure(self, now: float) -> Verdict | None:
        """Return the verdict on deaths, once reports in flight have had their time."""
        if self._first_failure is None:
            return None
        if now - self._first_failure < judge.wait_seconds(self.members.values()):
            return None
        return judge.first_culprit(self.members, self.rules.sequence)

    def hang(self, now: float) -> tuple[Verdict | None, str]:
        """Look for a hang, twice a second.

        Returns:
            The verdict, and a line for people if there was no progress anywhere for long.
        """
        if self._first_failure is not None or now - self._looked_at < _LOOK_SECONDS:
            return None, ""
        self._looked_at = now
        here = waits.silent_first(self.members)
        if not here:
            return None, ""
        limits = _Limits(self.rules, [m.sign for m in self.members.values() if m.sign is not None])
        verdict = _busy_too_long(here, limits) or self._all_wait_too_long(here, limits)
        return verdict, self._line(here, limits, now)

    def _line(self, here: waits.Here, limits: "_Limits", now: float) -> str:
        if now - self._said_at < SAID_AGAIN_SECONDS:
            return ""
        silent = min(sign.silent_seconds for _, sign in here)
        if silent < said_seconds(max(limits.of(sign) for _, sign in here)):
            return ""
        self._said_at = now
        return f"no progress for {silent:.0f} s: {waits.line(self.members, self.rules)}"

    def _all_wait_too_long(self, here: waits.Here, limits: "_Limits") -> Verdict | None:
        if not all(sign.waits for _, sign in here):
            return None
        if not self.all_came and any(sign.beat.phase == Phase.MEET for _, sign in here):
            return None  # the meeting itself names ranks that do not come
        silent = min(sign.silent_seconds for _, sign in here)
        if silent < max(limits.of(sign) for _, sign in here):
            return None
        found = waits.stuck(self.members, self.rules)
        cause = f"{found.cause}; no progress for {silent:.0f} s"
        return judge.verdict_on(self.members[found.rank], cause, codes.HANG.number)


class _Limits:
    """How long each rank may be silent, by what all of them have measured."""

    def __init__(self, rules: Rules, signs: list[Sign]) -> None:
        self._rules = rules
        self._busy, self._whole = _longest(s.busy for s in signs), _longest(s.whole for s in signs)
        self._found: dict[tuple[str, bool], float] = {}

    def of(self, sign: Sign) -> float:
        """Return the limit of a rank, in seconds."""
        key = sign.kind, sign.waits
        if key not in self._found:
            longest = self._whole if sign.waits else self._busy
            steps_done = Kind.STEP in self._whole
            self._found[key] = limit_seconds(self._rules, sign.kind, longest, steps_done)
        return self._found[key]


def _busy_too_long(here: waits.Here, limits: _Limits) -> Verdict | None:
    found = [
        (member, sign)
        for member, sign in here
        if not sign.waits and sign.silent_seconds >= limits.of(sign)
    ]
    if not found:
        return None
    stopped = [row for row in found if row[1].stopped]
    # What looks busy may wait in a library. All who stand there came about at the same time.
    first = found[0][1].silent_seconds
    together = [row for row in found if first - row[1].silent_seconds <= _TOGETHER_SECONDS]
    member, sign = (stopped or [waits.computing(together) or found[0]])[0]
    how = "stopped (SIGSTOP)" if sign.stopped else "no progress"
    cause = f"{how} for {sign.silent_seconds:.0f} s in {waits.doing(sign)}"
    return judge.verdict_on(member, cause, codes.HANG.number)


def _longest(durations: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in durations:
        for kind, seconds in each.items():
            found[kind] = max(found.get(kind, 0.0), seconds)
    return found
