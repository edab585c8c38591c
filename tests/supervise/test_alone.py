"""A rank that is judged alone."""

from tttscale.supervise.alone import Alone
from tttscale.supervise.page import Page, Phase
from tttscale.supervise.verdict import Ended, Verdict


def test_its_own_end_is_the_verdict():
    page, job = Page(), Alone()
    page.enter(Phase.CHECKPOINT, 6)
    job.watch(1)
    assert job.poll() is None
    job.ended(Ended(2, "here", -9, "", page.read()))
    verdict = job.settle(5)
    assert isinstance(verdict, Verdict)
    assert (verdict.rank, verdict.host, verdict.exit_code) == (2, "here", 71)
    assert (verdict.phase, verdict.step) == ("checkpoint", 6)
    assert verdict == job.poll()
    job.close()


def test_an_end_as_asked_is_none():
    job = Alone()
    job.finished(75)
    assert job.settle(5) is None
