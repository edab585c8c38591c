"""All supervisors of a job get the same verdict, over real sockets."""

import pytest

from tests.supervise.jobs import Star


@pytest.fixture
def star(monkeypatch):
    with Star(4, monkeypatch) as found:
        found.meet()
        yield found


def test_the_cause_beats_a_consequence_that_came_first(star):
    star[1].fail(71, "rank 1 lost another rank: connection reset")
    star.go(0.5)
    star[2].fail(-9)
    star.go(10)
    verdict = star.verdict()
    assert (verdict.rank, verdict.cause, verdict.exit_code) == (2, "killed by SIGKILL", 71)
    assert (verdict.phase, verdict.step) == ("step", 3)
