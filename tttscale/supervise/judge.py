"""Which rank was the first to fail: pure functions of what supervisors reported.

A cause beats all consequences, whenever they came. That a rank lost another one, was turned away, or was
ended by the launcher, is a consequence as long as any rank reports something else, or is gone without a word.
"""

import re
import signal
from collections.abc import Collection, Mapping

from tttscale import codes
from tttscale.supervise.ending import cause_of, class_of
from tttscale.supervise.member import Member, State
from tttscale.supervise.verdict import Ended, Verdict
from tttscale.supervise.waits import sources

GRACE_SECONDS = 1.0
"""After the first report of a failure: others may be on their way."""
CONSEQUENCE_SECONDS = 3.0
"""As long as nothing is reported that is a cause for certain."""
_ALIKE_SECONDS = 1.0
_CONSEQUENCES = {codes.PEER.number, codes.LAUNCH.number}
_ENDED_BY_OTHERS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""What launchers, and people, end a whole job with."""
_ABORTED = {signal.SIGABRT, signal.SIGPIPE}
"""What libraries end a process with that has lost another one."""
_LIBRARIES = re.compile(
    r"connection (reset|closed|refused)|closed by peer|broken pipe|gloo|nccl|process group", re.I
)
_RANK = re.compile(r"\brank (\d{1,9})\b")
_LOST_RANK = re.compile(r"\blost rank (\d{1,9})\b")
_SIGNALS_FROM = 128


def is_consequence(ended: Ended) -> bool:
    """Return whether a rank only noticed that others failed, or was ended with them."""
    code = ended.code if ended.code <= _SIGNALS_FROM else _SIGNALS_FROM - ended.code
    return code in _CONSEQUENCES or -code in _ENDED_BY_OTHERS


def _weight(member: Member) -> int:
    """The smaller, the likelier a cause: 0 a cause, 1 perhaps one, 2 and 3 consequences."""
    ended = member.ended
    if ended is None:
        return 0
    if is_consequence(ended):
        return 2 if ended.code == codes.LAUNCH.number else 3
    by_library = ended.code == codes.BUG.number and _LIBRARIES.search(ended.cause)
    return int(bool(by_library) or -ended.code in _ABORTED)


def wait_seconds(members: Collection[Member]) -> float:
    """Return how long after the first report of a failure the verdict may be found."""
    failed = [m for m in members if m.failed]
    if all(m.failed or m.state == State.LEFT for m in members):
        return 0.0
    certain = min(map(_weight, failed)) == 0
    return GRACE_SECONDS if certain else CONSEQUENCE_SECONDS


def first_culprit(members: Mapping[int, Member], sequence: int = 1) -> Verdict:
    """Find the rank that failed first, of those that have; there is at least one.

    Args:
        members: all ranks.
        sequence: ranks that share a sequence.
    """
    failed = [m for m in members.values() if m.failed]
    lightest = min(map(_weight, failed))
    candidates = sorted((m for m in failed if _weight(m) == lightest), key=lambda m: (m.at, m.rank))
    first = candidates[0]
    if first.ended is None:
        return _gone(first, candidates)
    if lightest > 1:
        return _noticed(first, members, sequence)
    alike = [m for m in candidates if _raised_alike(m, first) and m.at - first.at <= _ALIKE_SECONDS]
    named = _RANK.search(first.ended.cause)
    chosen = min(alike, key=lambda m: m.rank)
    if len(alike) > 1 and named and int(named[1]) in members:
        chosen = members[int(named[1])]
    return verdict_on(
        chosen, cause_of(first.ended.code, first.ended.cause), class_of(first.ended.code)
    )


def _raised_alike(a: Member, b: Member) -> bool:
    """Whether two ranks raised the same error, as all ranks do with what they found together."""
    if a is b:
        return True
    if a.ended is None or b.ended is None or not a.ended.cause:
        return False
    return (a.ended.code, a.ended.cause) == (b.ended.code, b.ended.cause)


def _gone(first: Member, candidates: list[Member]) -> Verdict:
    """Name the lowest of the ranks that are gone together; those on one host are said to be."""
    gone = sorted(
        m.rank
        for m in candidates
        if m.state == State.LOST and m.host == first.host and m.at - first.at <= _ALIKE_SECONDS
    )
    lowest = min((m for m in candidates if m.rank in gone), key=lambda m: m.rank)
    more = f", with ranks {', '.join(map(str, gone[1:9]))}" if len(gone) > 2 else ""
    more = f", with rank {gone[1]}" if len(gone) == 2 else more
    return verdict_on(lowest, f"host or supervisor gone{more}", codes.PEER.number)


def _noticed(first: Member, members: Mapping[int, Member], sequence: int) -> Verdict:
    """There are only consequences: say which link is in doubt, if that is known."""
    assert first.ended is not None
    words, last = cause_of(first.ended.code, first.ended.cause), first.ended.last
    if first.ended.code == codes.LAUNCH.number or is_ended_by_others(first.ended):
        return verdict_on(first, words, class_of(first.ended.code))
    others = sources(first.rank, last, sequence, len(members)) or _named(first, members, sequence)
    if len(others) == 1:
        words = f"link between rank {others[0]} and rank {first.rank}, or one of them: {words}"
    else:
        words = f"link between rank {first.rank} and another one: {words}"
    return verdict_on(first, words, codes.PEER.number)


def _named(first: Member, members: Mapping[int, Member], sequence: int) -> list[int]:
    """The rank that a rank says it has lost."""
    cause = first.ended.cause if first.ended is not None else ""
    named = _LOST_RANK.search(cause)
    if named is None:
        return []
    within = cause.startswith("sequence rank")  # which counts within its replica
    rank = int(named[1]) + (first.rank // sequence * sequence if within else 0)
    return [rank] if rank in members and rank != first.rank else []


def is_ended_by_others(ended: Ended) -> bool:
    """Return whether a launcher or a person ended it."""
    code = ended.code if ended.code <= _SIGNALS_FROM else _SIGNALS_FROM - ended.code
    return -code in _ENDED_BY_OTHERS


def verdict_on(member: Member, cause: str, code: int) -> Verdict:
    """Return a verdict on a rank, with the phase and step that it reported last."""
    beat = member.ended.last if member.ended else member.sign.beat if member.sign else None
    return Verdict(
        member.rank,
        member.host or (member.ended.host if member.ended else "") or "unknown",
        beat.phase.value if beat else "unknown",
        beat.step if beat else 0,
        cause,
        code,
    )
