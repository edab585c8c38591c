"""Hangs, as all supervisors of a job see them: over real sockets, with simulated pages and clock."""

import os
import signal
import time

from tests.supervise.jobs import Task
from tttscale.supervise.deadline import Rules
from tttscale.supervise.page import Phase


def test_a_rank_that_is_stopped_hangs(star):
    """A real process, stopped by a real signal; the others wait for it."""
    child = os.fork()
    if not child:
        time.sleep(600)
        os._exit(0)
    try:
        star[2].job.watch(child)
        os.kill(child, signal.SIGSTOP)
        begin_steps(star)
        for one in star.all:
            one.page.beat("wait", "forward", Task(chunk=one.rank + 1), 0)
        star.go(300)
        verdict = star.verdict()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (verdict.rank, verdict.exit_code) == (2, 72)
    assert verdict.cause.startswith("stopped (SIGSTOP) for ")
    assert "forward wait" in verdict.cause


def test_a_rank_that_loops_hangs_and_a_line_says_so_before(star):
    begin_steps(star)
    began = star.clock.now
    star[1].page.beat("advance", "forward", Task(chunk=4), 2)
    for rank, chunk in ((2, 5), (3, 6), (0, 7)):
        star[rank].page.beat("wait", "forward", Task(chunk=chunk), 2)
    star.go(300)
    verdict = star.verdict()
    assert (verdict.rank, verdict.exit_code) == (1, 72)
    assert verdict.cause.startswith("no progress for 6")
    assert verdict.cause.endswith("in forward advance, chunk 4, layer 2")
    assert 58 < star.clock.now - began < 65
    (line,) = star[0].said
    assert line.startswith("no progress for 3")
    assert "rank 2 waits for rank 1 (forward state, chunk 5, layer 2, 3" in line
    assert "rank 1: forward advance, chunk 4, layer 2 for 3" in line
    assert not any(one.said for one in star.all[1:])


def test_a_cut_link_is_named_by_who_waits_for_what_was_sent(star):
    begin_steps(star)
    star[1].page.beat("wait", "forward", Task(chunk=9), 0)  # done with chunk 5
    star[2].page.beat("wait", "forward", Task(chunk=6), 1)  # the state after chunk 5
    star[3].page.beat("wait", "forward", Task(chunk=7), 0)
    star[0].page.beat("wait", "forward", Task(chunk=8), 0)
    star.go(300)
    verdict = star.verdict()
    assert (verdict.rank, verdict.exit_code) == (2, 72)
    assert verdict.cause.startswith(
        "link between rank 1 and rank 2, or one of them: rank 2 waits for"
    )


def begin_steps(star, step_seconds=1.0):
    """Two steps, so that both a first one and another are measured."""
    for one in star.all:
        one.page.say("watch", Rules(60, 4).text())
    for step in (3, 4, 5, 6):
        for one in star.all:
            one.page.enter(Phase.STEP, step)
        star.go(step_seconds)


def test_a_job_that_was_stopped_as_a_whole_goes_on(star):
    begin_steps(star)
    star[1].page.beat("advance", "forward", Task(chunk=4), 2)
    star.go(5)
    star.clock.now += 4000
    star.go(5)
    assert not any(one.verdict for one in star.all)


def test_hang_seconds_0_is_off(star):
    begin_steps(star)
    for one in star.all:
        one.page.say("watch", Rules(0, 4).text())
    star[1].page.beat("advance", "forward", Task(chunk=4), 2)
    star.go(3000, by=0.5)
    assert not any(one.verdict for one in star.all)
    assert len(star[0].said) == 3000 // 300
