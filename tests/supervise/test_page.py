"""The page that a rank and its supervisor share."""

import os
import time

import pytest

from tttscale.scan.timeline import Activity, Run
from tttscale.supervise import page
from tttscale.supervise.page import Page, Phase


class Task:
    sequence, chunk = 1, 7


@pytest.fixture
def shared():
    return Page()


def test_every_activity_and_run_has_a_number(shared):
    shared.enter(Phase.STEP, 3)
    for activity in Activity:
        for run in (None, *Run):
            shared.beat(activity, run, Task, 2)
            found = shared.read()
            assert (found.activity, found.run) == (activity, run or "")
            assert (found.sequence, found.chunk, found.layer) == (1, 7, 2)
            assert (found.phase, found.step) == (Phase.STEP, 3)


def test_another_process_reads_it(shared):
    child = os.fork()
    if not child:
        shared.enter(Phase.STEP, 5)
        shared.beat("advance", "forward", Task, 4)
        shared.say("cause", "it was ä full disk")
        os._exit(0)
    os.waitpid(child, 0)
    found = shared.read()
    assert found.where() == "forward advance, sequence 1, chunk 7, layer 4"
    assert shared.text("cause") == "it was ä full disk"
    assert shared.text("folder") == ""
    assert found.count == 2
    assert 0 <= time.monotonic() - found.at < 60


def test_a_long_text_is_cut(shared):
    shared.say("cause", "x" * 100_000)
    shared.say("folder", "here")
    assert set(shared.text("cause")) == {"x"}
    assert shared.text("folder") == "here"


def test_the_longest_activity_leaves_out_waits_and_the_first_step(shared, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for step, seconds in ((1, 50.0), (2, 3.0)):
        shared.enter(Phase.STEP, step)
        shared.beat("advance", "forward", Task, 0)
        now[0] += seconds
        shared.beat("wait", "forward", Task, 1)
        now[0] += 20
        shared.beat("advance", "forward", Task, 1)
    assert shared.read().longest_busy_seconds == 3.0
    shared.enter(Phase.CHECKPOINT)
    now[0] += 10
    shared.beat("checkpoint")
    assert shared.read().longest_busy_seconds == 3.0


def test_without_a_supervisor_nothing_is_said(monkeypatch):
    monkeypatch.setattr(Page, "own", None)
    page.enter(Phase.BUILD, 2)
    page.say("cause", "nothing")


def test_a_rank_that_waits_is_no_busy_one(shared):
    shared.enter(Phase.STEP, 2)
    shared.beat("wait", "backward", Task, 1)
    assert shared.read().waits
    shared.beat("project", "backward", Task, 1)
    assert not shared.read().waits
    shared.enter(Phase.MEET)
    assert shared.read().waits


def test_a_sum_over_all_ranks_is_a_wait(shared, monkeypatch):
    monkeypatch.setattr(Page, "own", shared)
    shared.enter(Phase.STEP, 2)
    shared.beat("advance", "forward", Task, 4)
    before = shared.read()
    with page.waiting():
        assert shared.read().waits
        assert shared.read().activity == "idle"
    after = shared.read()
    assert (after.where(), after.activity) == (before.where(), "advance")
    assert after.count > before.count
    shared.beat("reduce")
    with page.waiting():
        assert shared.read().activity == "reduce"
    assert shared.read().activity == "reduce"


def test_it_says_whether_a_chunk_was_run(shared):
    shared.enter(Phase.STEP, 2)
    shared.beat("idle")
    assert not shared.read().swept
    shared.beat("wait", "forward", Task, 1)
    shared.beat("idle")
    assert shared.read().swept
    shared.enter(Phase.EVALUATE)
    assert not shared.read().swept
