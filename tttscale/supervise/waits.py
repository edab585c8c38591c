"""Who waits for whom, and what is wrong if all wait: pure functions of signs of life.

A rank that waits for a state waits for its left neighbour in the ring of its sequence, one that waits for a
gradient for its right one. In a sum over all ranks, and where ranks meet, it waits for all that are missing.
Each rank does its tasks in one global order (`tttscale.scan.schedule`), so a rank that is further than a
message needs has sent it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tttscale.supervise.deadline import Rules
from tttscale.supervise.member import Member, State
from tttscale.supervise.page import Beat, Phase
from tttscale.supervise.signs import Sign

_CYCLE = [Phase.STEP, Phase.EVALUATE, Phase.RECORD, Phase.CHECKPOINT, Phase.CLOSE]
"""What follows in the course of a step."""
_SWEEPS = (Phase.STEP, Phase.EVALUATE)
_CARRY = frozenset({"wait", "flush"})
_SHOWN = 4
_SLEEPS = 0.005
"""CPU seconds in a second of a rank that waits, or less."""
_TIMES_OTHERS = 8
"""So much more does a rank in an endless loop compute. On a crowded host that may still be little."""
Here = list[tuple[Member, Sign]]
"""Ranks whose supervisors are here, with their last signs of life."""
_Place = tuple[int, int, int, tuple[int, ...]]
"""Step, place in it, part of the sweeps, place in that: larger is later."""
_NO_LAYER_YET = 1 << 30
"""Above all layers: a chunk is recomputed as a whole before its backward begins."""
_BEFORE, _FORWARD, _BETWEEN, _BACKWARD, _AFTER = range(5)


@dataclass(frozen=True)
class Stuck:
    """What is wrong where all ranks wait."""

    rank: int
    cause: str


def sources(rank: int, beat: Beat, sequence: int, world: int) -> list[int]:
    """Return for which single neighbour a rank waits, or both; empty if it is for no certain one."""
    first = rank // sequence * sequence
    left, right = ((rank - first + step) % sequence + first for step in (-1, 1))
    if sequence < 2 or beat.activity not in _CARRY or not first + sequence <= world:
        return []
    if beat.activity == "wait" and beat.run:
        return [right if beat.run == "backward" else left]
    return sorted({left, right})


def what(beat: Beat) -> str:
    """Say for what a rank waits: `forward state, chunk 5, layer 2`."""
    if beat.phase == Phase.MEET:
        return "meeting"
    if beat.activity == "wait":
        kind = "backward gradient" if beat.run == "backward" else "forward state"
        sequence = f"sequence {beat.sequence}, " if beat.sequence > 0 else ""
        return f"{kind}, {sequence}chunk {beat.chunk}, layer {beat.layer}"
    if beat.activity == "flush":
        return "its messages to be taken"
    names = {"reduce": "sum of gradients", "gather": "new parameters"}
    name = names.get(beat.activity, "sum over all ranks")
    return f"{name}, {beat.phase.value}" + (f" {beat.step}" if beat.phase == Phase.STEP else "")


def doing(sign: Sign) -> str:
    """Say what a rank does: `forward advance, chunk 4, layer 2`, or its phase."""
    beat = sign.beat
    if beat.phase == Phase.MEET or not (words := beat.where()):
        return beat.phase.value + (f" {beat.step}" if beat.phase == Phase.STEP else "")
    return words.replace(", sequence 0,", ",")


def silent_first(members: Mapping[int, Member]) -> Here:
    """Return the ranks that are here and have said something, those first that have been silent longest."""
    here = [(m, m.sign) for m in members.values() if m.state == State.HERE and m.sign is not None]
    return sorted(here, key=lambda row: (-row[1].silent_seconds, row[0].rank))


def line(members: Mapping[int, Member], rules: Rules) -> str:
    """Say who waits for whom at what, and what the others do, in one line."""
    here = silent_first(members)
    waiting = [_waiting(member, sign, members, rules) for member, sign in here if sign.waits]
    busy = [_busy(member, sign) for member, sign in here if not sign.waits]
    unseen = [m.rank for m in members.values() if m.state == State.UNSEEN]
    # Who keeps the others waiting comes last, as in a chain.
    parts = [*_cut(waiting), *_cut(busy)]
    if unseen:
        parts.append(f"nothing is known of {_ranks(unseen)}")
    return "; ".join(parts)


def _cut(parts: list[str]) -> list[str]:
    more = [f"{len(parts) - _SHOWN} more alike"] if len(parts) > _SHOWN else []
    return parts[:_SHOWN] + more


def _ranks(ranks: list[int]) -> str:
    listed = ", ".join(map(str, ranks[:_SHOWN])) + ", ..." * (len(ranks) > _SHOWN)
    return f"rank {listed}" if len(ranks) == 1 else f"ranks {listed}"


def _busy(member: Member, sign: Sign) -> str:
    stopped = "stopped (SIGSTOP) in " if sign.stopped else ""
    return f"rank {member.rank}: {stopped}{doing(sign)} for {sign.silent_seconds:.0f} s"


def _waiting(member: Member, sign: Sign, members: Mapping[int, Member], rules: Rules) -> str:
    others = sources(member.rank, sign.beat, rules.sequence, len(members))
    others = others or [m.rank for m in members.values() if _is_missed(m, member.rank, sign)]
    whom = _ranks(others) if others else "all others"
    return f"rank {member.rank} waits for {whom} ({what(sign.beat)}, {sign.silent_seconds:.0f} s)"


def _is_missed(other: Member, rank: int, sign: Sign) -> bool:
    """Whether a rank that waits for all others waits for this one."""
    if other.rank == rank or other.state == State.LEFT:
        return False
    return other.sign is None or _kind(other.sign) != _kind(sign)


def _kind(sign: Sign) -> tuple[str, ...]:
    """What a rank waits for, as far as others wait for the same; or that it does not wait."""
    beat = sign.beat
    if not sign.waits:
        return ("busy",)
    if beat.phase == Phase.MEET:
        return (beat.phase,)
    kind = "carry" if beat.activity in _CARRY else beat.activity
    return (kind, beat.phase, str(beat.step))


def stuck(members: Mapping[int, Member], rules: Rules) -> Stuck:
    """Find what is wrong where every rank that is still here waits."""
    here = silent_first(members)
    if (one := computing(here)) is not None:
        return Stuck(
            one[0].rank, f"it computes without end while it should wait for {what(one[1].beat)}"
        )
    for member, sign in here:
        for source, found in _passed(member.rank, sign, members, rules):
            return Stuck(
                member.rank,
                f"link between rank {source} and rank {member.rank}, or one of them: rank {member.rank} "
                f"waits for {what(sign.beat)}, which rank {source} has passed (it waits for "
                f"{what(found.beat)})",
            )
    for state, words in (
        (State.UNSEEN, "its supervisor has not come, and all others wait"),
        (State.LEFT, "it has ended already, and the others still wait"),
    ):
        ranks = [m.rank for m in members.values() if m.state == state]
        if ranks:
            return Stuck(min(ranks), words)
    return _odd(here) or _all_alike(here)


def computing(here: Here) -> tuple[Member, Sign] | None:
    """Return the only rank that computes while all others sleep, as in an endless loop.

    None if several compute: some libraries do so while they wait.
    """
    if len(here) < 2:
        return None
    first, second = sorted(here, key=lambda row: -row[1].cpu_share)[:2]
    others = max(second[1].cpu_share, _SLEEPS)
    return first if first[1].cpu_share >= _TIMES_OTHERS * others else None


def _odd(here: Here) -> Stuck | None:
    """The one rank that waits for another kind of thing than all others."""
    groups: dict[tuple[str, ...], Here] = {}
    for member, sign in here:
        groups.setdefault(_kind(sign), []).append((member, sign))
    sizes = sorted(groups.values(), key=len)
    if len(sizes) != 2 or len(sizes[0]) != 1 or len(sizes[1]) < 2:
        return None
    (odd, sign), (_, others) = sizes[0][0], sizes[1][0]
    words = f"it waits for {what(sign.beat)}, and all others for {what(others.beat)}"
    return Stuck(odd.rank, words)


def _all_alike(here: Here) -> Stuck:
    member, sign = here[0]
    words = "all ranks wait, it the longest" if len(here) > 1 else "it waits"
    return Stuck(member.rank, f"{words}: for {what(sign.beat)}")


def _passed(
    rank: int, sign: Sign, members: Mapping[int, Member], rules: Rules
) -> list[tuple[int, Sign]]:
    """Whom this rank waits for although that one has sent it already, and what that one does."""
    needed = _needed(sign.beat, rules) if sign.beat.activity == "wait" else None
    if needed is None:
        return []
    found = []
    for source in sources(rank, sign.beat, rules.sequence, len(members)):
        other = members[source]
        if other.state == State.HERE and other.sign is not None:
            place = _place(other.sign.beat, rules)
            if place is not None and place > needed:
                found.append((source, other.sign))
    return found


def _needed(beat: Beat, rules: Rules) -> _Place | None:
    """Where its neighbour sends what this rank waits for."""
    if beat.phase not in _SWEEPS or not beat.run or beat.chunk < 0:
        return None
    forward = beat.run != "backward"
    chunk = beat.chunk - 1 if forward else beat.chunk + 1
    part = _FORWARD if forward else _BACKWARD
    key = _key(forward, beat.sequence, chunk, beat.layer, rules)
    return beat.step, _CYCLE.index(beat.phase), part, key


def _place(beat: Beat, rules: Rules) -> _Place | None:
    """Where a rank is in the course of the steps; None where that is not certain."""
    if beat.phase not in _CYCLE:
        return None
    step, phase = beat.step, _CYCLE.index(beat.phase)
    if beat.phase not in _SWEEPS:
        return step, phase, _BEFORE, ()
    if beat.run:
        forward = beat.run == "forward"
        part = _FORWARD if forward else _BACKWARD
        layer = beat.layer
        if not forward and (beat.run == "recompute" or layer < 0):
            layer = _NO_LAYER_YET
        return step, phase, part, _key(forward, beat.sequence, beat.chunk, layer, rules)
    if beat.activity == "flush":
        return step, phase, _BETWEEN, ()
    if beat.activity in ("idle", "reduce", "gather"):
        return step, phase, _AFTER if beat.swept else _BEFORE, ()
    return None


def _key(forward: bool, sequence: int, chunk: int, layer: int, rules: Rules) -> tuple[int, ...]:
    striped = rules.layout == "striped"
    key = (chunk, sequence, layer) if striped else (sequence, layer, chunk)
    return key if forward else tuple(-number for number in key)
