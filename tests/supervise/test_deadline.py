"""After how many seconds a rank hangs; and that healthy runs never do, in simulated pages."""

import math
import random

import pytest

from tests.supervise.jobs import Star, Task
from tttscale.supervise.deadline import Rules, limit_seconds, said_seconds
from tttscale.supervise.page import Phase

RULES = Rules(60, 4)


@pytest.mark.parametrize(
    ("kind", "longest", "steps_done", "seconds"),
    [
        ("step", {}, True, 60),
        ("step", {"step": 3}, True, 60),
        ("step", {"step": 30}, True, 150),
        ("step", {"first step": 100, "step": 3}, True, 60),
        ("step", {"first step": 100}, False, 200),
        ("step", {"first step": 3}, False, 60),
        ("first step", {"first step": 100}, False, 600),
        ("first step", {"first step": 200}, False, 1000),
        *((str(phase), {}, True, 600) for phase in Phase if phase != Phase.STEP),
        ("checkpoint", {"checkpoint": 500, "step": 3}, True, 2500),
        ("evaluation", {"checkpoint": 500}, True, 600),
    ],
)
def test_limits(kind, longest, steps_done, seconds):
    assert limit_seconds(RULES, kind, longest, steps_done) == seconds
    assert limit_seconds(Rules(0), kind, longest, steps_done) == math.inf


@pytest.mark.parametrize(("limit", "seconds"), [(60, 30), (10, 5), (600, 60), (math.inf, 60)])
def test_a_line_comes_before_the_end(limit, seconds):
    assert said_seconds(limit) == seconds


def test_rules_are_a_text_on_the_page():
    rules = Rules(7.5, 16, "contiguous")
    assert Rules.of(rules.text()) == rules
    assert Rules.of("") == Rules()


def step(star, number, seconds, wait_seconds, busy):
    """One step of all ranks: a busy one, for which the others wait, then a sum."""
    for one in star.all:
        one.page.enter(Phase.STEP, number)
        one.page.beat("wait", "forward", Task(chunk=one.rank), 0)
    star[busy].page.beat("advance", "forward", Task(chunk=busy), 0)
    star.go(seconds)
    star[busy].page.beat("readout", "forward", Task(chunk=busy), 0)
    if wait_seconds:  # it makes progress, and all others wait for the whole time
        for second in range(round(wait_seconds)):
            star[busy].page.beat("advance", "forward", Task(chunk=second), 0)
            star.go(1.0)
    for one in star.all:
        one.page.beat("idle")
    star.go(0.1)


def test_no_false_alarm_in_1000_healthy_steps(monkeypatch):
    """The first ten times as long, one with long waits, one with long saving; simulated pages and clock."""
    rng = random.Random(1)
    with Star(4, monkeypatch) as star:
        star.meet()
        for one in star.all:
            one.page.say("watch", Rules(2.0, 4).text())
        for number in range(1, 1001):
            seconds = 1.0 if number == 1 else rng.uniform(0.05, 0.15)
            step(star, number, seconds, 40 if number == 500 else 0, rng.randrange(4))
            if number % 250 == 0:
                for one in star.all:
                    one.page.enter(Phase.CHECKPOINT)
                    if one.rank:
                        one.page.beat("idle")
                star.go(15)
            assert not any(one.verdict for one in star.all), number
        # The same watch still sees a hang.
        star[2].page.enter(Phase.STEP, 1001)
        star[2].page.beat("advance", "forward", Task(chunk=1), 0)
        star.go(30)
        assert (star.verdict().rank, star.verdict().exit_code) == (2, 72)


def test_a_first_step_that_takes_minutes(monkeypatch):
    with Star(2, monkeypatch) as star:
        star.meet()
        for one in star.all:
            one.page.say("watch", Rules(60, 2).text())
        step(star, 3, 550, 0, 0)
        step(star, 4, 55, 0, 1)
        step(star, 5, 250, 0, 1)
        assert not any(one.verdict for one in star.all)


def test_a_deadline_grows_with_what_was_measured(monkeypatch):
    with Star(2, monkeypatch) as star:
        star.meet()
        for one in star.all:
            one.page.say("watch", Rules(10, 2).text())
        for number, seconds in ((3, 1), (4, 9), (5, 40), (6, 150)):
            step(star, number, seconds, 0, 0)
            assert not any(one.verdict for one in star.all), number
        began = star.clock.now
        star[0].page.enter(Phase.STEP, 7)
        star[0].page.beat("advance", "forward", Task(chunk=1), 0)
        star.go(2000)
        assert 745 < star.clock.now - began < 765
        assert star.verdict().rank == 0
