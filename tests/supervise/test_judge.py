"""The first culprit, over all orders in which reports may come."""

import random
from itertools import permutations, product

import pytest

from tests.supervise.ring import Op, member
from tttscale.supervise import judge
from tttscale.supervise.court import Court
from tttscale.supervise.member import Member, State
from tttscale.supervise.verdict import Ended

BEAT = member(0, Op("advance", "forward", 0, 1, 2), 0.0).sign.beat
NOTICED = [71, 69, -15, -2, 143, 130, None]
"""How ranks end that are no culprits; None: not yet."""
ABORTED = [-6, -13]
CAUSES = [64, 65, 66, 70, 74, 76, 1, 2, -9, -11, -7, -4, "lost"]


def members_of(ends, order):
    """Ranks that ended so, a tenth of a second after each other in this order; None: they still run."""
    found = {}
    for rank, end in enumerate(ends):
        one = Member(rank, f"host{rank}", State.HERE, member(rank, Op("idle"), 0.0).sign)
        one.at = 10.0 + 0.1 * order[rank]
        if end == "lost":
            one.state = State.LOST
        elif end is not None:
            cause = f"rank {rank} says {end}" if end > 0 else ""
            one.state, one.ended = State.ENDED, Ended(rank, f"host{rank}", end, cause, BEAT)
        found[rank] = one
    return found


@pytest.mark.parametrize("culprit", range(3))
def test_one_cause_among_consequences_is_named_in_any_order(culprit):
    for cause, others, order in product(
        CAUSES, product(NOTICED + ABORTED, repeat=2), permutations(range(3))
    ):
        ends = list(others)
        ends.insert(culprit, cause)
        verdict = judge.first_culprit(members_of(ends, order))
        assert verdict.rank == culprit, (ends, order)
        assert verdict.host == f"host{culprit}"


@pytest.mark.parametrize("culprit", range(3))
def test_an_abort_is_a_cause_if_there_is_no_other(culprit):
    for cause, others, order in product(
        ABORTED, product(NOTICED, repeat=2), permutations(range(3))
    ):
        ends = list(others)
        ends.insert(culprit, cause)
        assert judge.first_culprit(members_of(ends, order)).rank == culprit


def test_of_several_causes_the_first_in_time():
    for causes, order in product(product(CAUSES, repeat=3), permutations(range(3))):
        if causes.count("lost") > 1 or len({c for c in causes if c != "lost"}) < 2:
            continue
        members = members_of(causes, order)
        if any(a.at > 10 and a.state == State.LOST for a in members.values()):
            continue
        assert judge.first_culprit(members).rank == order.index(0)


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        *((code, code) for code in (64, 65, 66, 69, 70, 71, 72, 74, 76)),
        *((code, 71) for code in (-9, -11, -6, -15)),
        *((code, 70) for code in (1, 2, 3, 120)),
        (130, 130),
        (143, 143),
    ],
)
def test_exit_codes(code, exit_code):
    assert judge.first_culprit(members_of([code], [0])).exit_code == exit_code


def test_a_library_that_lost_a_rank_is_no_cause():
    for order in permutations(range(2)):
        members = members_of([70, -9], order)
        lost = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer"
        members[0].ended = Ended(0, "host0", 70, lost, BEAT)
        assert judge.first_culprit(members).rank == 1


def test_what_all_ranks_raise_alike():
    said = "step 5: the loss of sequence 0 is not finite from chunk 3 on"
    for order in permutations(range(3)):
        members = members_of([76, 76, 76], order)
        for one in members.values():
            one.ended = Ended(one.rank, one.host, 76, said, BEAT)
        assert judge.first_culprit(members).rank == 0
        for one in members.values():
            one.ended = Ended(one.rank, one.host, 76, f"{said}, on rank 2", BEAT)
        verdict = judge.first_culprit(members)
        assert (verdict.rank, verdict.host) == (2, "host2")


def test_a_rank_in_a_single_ranks_text_is_not_the_culprit():
    members = members_of([None, 70, None], [0, 1, 2])
    members[1].ended = Ended(1, "host1", 70, "cannot send to rank 2", BEAT)
    assert judge.first_culprit(members).rank == 1


def test_ranks_of_a_host_that_is_gone():
    members = members_of(["lost"] * 4 + [71] * 4, range(8))
    for rank in range(4):
        members[rank].host = "node7"
    verdict = judge.first_culprit(members)
    assert (verdict.rank, verdict.host) == (0, "node7")
    assert verdict.cause == "host or supervisor gone, with ranks 1, 2, 3"


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        (
            [71, None],
            "link between rank 1 and rank 0, or one of them: rank 0 lost rank 1 at the end",
        ),
        ([69, None], "rank 0 lost rank 1 at the end"),
        ([-15, None], "killed by SIGTERM after: rank 0 lost rank 1 at the end"),
    ],
)
def test_only_consequences(ends, cause):
    members = members_of(ends, [0, 1])
    members[0].ended = Ended(0, "host0", ends[0], "rank 0 lost rank 1 at the end", BEAT)
    assert judge.first_culprit(members).cause == cause


def test_a_launch_error_says_more_than_a_lost_rank():
    for order in permutations(range(3)):
        assert judge.first_culprit(members_of([71, 69, 71], order)).rank == 1


def test_how_long_to_wait():
    def seconds(*ends):
        return judge.wait_seconds(members_of(ends, range(len(ends))).values())

    assert seconds(-9, None, None) == judge.GRACE_SECONDS
    assert seconds(71, None, None) == judge.CONSEQUENCE_SECONDS
    assert seconds(71, 71, None) == judge.CONSEQUENCE_SECONDS
    assert seconds(71, -9, None) == judge.GRACE_SECONDS
    assert seconds("lost", 71, None) == judge.GRACE_SECONDS
    assert seconds(71, -9, 71) == 0


@pytest.mark.parametrize("seed", range(200))
def test_the_culprit_is_named_whatever_the_order_of_reports(seed):
    """One culprit in up to 16 ranks; the others' reports come before and after its own, within the grace."""
    rng = random.Random(seed)
    world = rng.choice([2, 3, 4, 8, 16])
    culprit, court, now = rng.randrange(world), Court(world), 100.0
    for rank in range(world):
        court.met(rank, f"host{rank}")
        court.sign(rank, member(rank, Op("idle"), 0.0).sign)
    reports = {
        rank: rng.choice(NOTICED + ABORTED) if rank != culprit else rng.choice(CAUSES)
        for rank in range(world)
    }
    times = {rank: rng.uniform(0, 0.95 * judge.GRACE_SECONDS) for rank in reports}
    for rank in sorted(reports, key=lambda r: times[r]):
        assert court.failure(now + times[rank]) is None
        if reports[rank] == "lost":
            court.lost(rank, now + times[rank])
        elif reports[rank] is not None:
            court.ended(Ended(rank, "", reports[rank], "", BEAT), now + times[rank])
    verdict = court.failure(now + judge.CONSEQUENCE_SECONDS + 1)
    assert verdict.rank == culprit
