"""When there is a verdict; which one is in test_judge.py and test_waits.py."""

import pytest

from tests.supervise.ring import Op, member
from tttscale.supervise import judge
from tttscale.supervise.court import SAID_AGAIN_SECONDS, Court
from tttscale.supervise.deadline import Rules
from tttscale.supervise.page import Phase
from tttscale.supervise.verdict import Ended

BEAT = member(0, Op("idle"), 0.0).sign.beat
BUSY, IDLE = Op("advance", "forward", 0, 1, 2), Op("idle", needs="sweeps")


@pytest.fixture
def court():
    found = Court(3)
    for rank in range(3):
        found.met(rank, f"host{rank}")
    return found


def signs(court, *rows):
    for rank, (op, seconds) in enumerate(rows):
        court.sign(rank, member(rank, op, seconds).sign)


def test_a_cause_is_judged_after_the_grace(court):
    court.ended(Ended(1, "host1", -9, "", BEAT), 10.0)
    assert court.failure(10.0 + judge.GRACE_SECONDS - 0.1) is None
    assert court.failure(10.0 + judge.GRACE_SECONDS).rank == 1


def test_consequences_are_given_longer(court):
    court.ended(Ended(1, "host1", 71, "", BEAT), 10.0)
    assert court.failure(10.0 + judge.CONSEQUENCE_SECONDS - 0.1) is None
    assert court.failure(10.0 + judge.CONSEQUENCE_SECONDS).rank == 1


def test_nobody_is_waited_for_once_all_have_ended(court):
    for rank in (2, 0):
        court.ended(Ended(rank, "", -9, "", BEAT), 10.0 - rank)
    court.left(1)
    assert court.failure(10.0).rank == 2


def test_one_end_is_enough(court):
    court.ended(Ended(1, "host1", 74, "first", BEAT), 10.0)
    court.ended(Ended(1, "host1", 70, "second", BEAT), 10.1)
    court.lost(1, 10.2)
    assert court.failure(20.0).cause == "first"


def test_who_has_left_is_not_lost(court):
    court.left(1)
    court.lost(1, 10.0)
    assert court.failure(100.0) is None


def test_looks_for_hangs_twice_a_second(court):
    court.rules = Rules(60, 3)
    signs(court, (BUSY, 61), (IDLE, 61), (IDLE, 61))
    assert court.hang(0.0)[0].rank == 0
    assert court.hang(0.4) == (None, "")
    assert court.hang(0.5)[0].rank == 0


def test_no_hang_is_looked_for_once_a_rank_has_failed(court):
    signs(court, (BUSY, 1e6), (IDLE, 1e6), (IDLE, 1e6))
    court.ended(Ended(1, "host1", 71, "", BEAT), 10.0)
    assert court.hang(10.0) == (None, "")


def test_one_that_makes_progress_is_enough_while_others_wait(court):
    signs(court, (BUSY, 0.1), (IDLE, 1e6), (IDLE, 1e6))
    assert court.hang(0.0) == (None, "")


def test_a_line_is_said_again_after_minutes(court):
    signs(court, (BUSY, 31), (IDLE, 35), (IDLE, 35))
    verdict, line = court.hang(0.0)
    assert verdict is None
    assert line.startswith("no progress for 31 s: rank 1 waits for ")
    assert court.hang(2.0) == (None, "")
    assert court.hang(SAID_AGAIN_SECONDS)[1]


def test_ranks_that_do_not_come_are_the_meetings_matter():
    court = Court(3)
    court.met(0, "host0")
    beat = member(0, IDLE, 1e6).sign.beat
    sign = member(0, IDLE, 1e6).sign
    object.__setattr__(sign, "beat", type(beat)(**{**beat.__dict__, "phase": Phase.MEET}))
    court.sign(0, sign)
    assert court.hang(0.0)[0] is None


def test_of_two_that_came_together_the_one_that_computes(court):
    """What looks busy may wait in a library for the one that loops."""
    for rank, share in ((0, 0.01), (1, 0.99), (2, 0.0)):
        court.sign(rank, member(rank, Op("optimizer"), 61 + rank / 10, cpu_share=share).sign)
    assert court.hang(0.0)[0].rank == 1


def test_the_longest_silence_of_those_that_are_busy(court):
    signs(court, (Op("optimizer"), 70), (Op("optimizer"), 90), (Op("optimizer"), 61))
    assert court.hang(0.0)[0].rank == 1


def test_all_have_left(court):
    for rank in range(3):
        assert not court.is_over
        court.left(rank)
    assert court.is_over
