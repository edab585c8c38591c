"""The hub's own bounds and cost; what it decides is in test_job.py."""

import resource
import time

import pytest

from tests.supervise.jobs import Star, Task
from tttscale.supervise.page import Phase


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def test_256_supervisors_take_little_time(monkeypatch, record_property):
    """CPU seconds of the hub for each second of a run, all ranks making progress; no torch, real sockets."""
    with Star(256, monkeypatch, hosts=True) as star:
        star.meet()
        hub, spent, counted = star[0], 0.0, 0.0
        for second in range(20):
            for one in star.all:
                one.page.enter(Phase.STEP, second)
                one.page.beat("advance", "forward", Task(chunk=second), 0)
            for _ in range(10):
                star.clock.now += 0.1
                counted += 0.1
                for one in star.all[1:]:
                    one.poll()
                began = cpu_seconds()
                hub.poll()
                spent += cpu_seconds() - began
        share = spent / counted
        record_property("hub CPU seconds per second, 256 ranks", share)
        print(f"hub: {share:.4f} CPU seconds per second, 256 ranks")
        assert len(hub.job.side.hub._seats) == 255
        assert all(
            m.sign is not None and m.sign.beat.step == 19 for m in hub.job.court.members.values()
        )
        assert share < 1.0


def test_a_limit_of_open_files_is_raised(monkeypatch):
    from tttscale.supervise import hub

    asked = []
    monkeypatch.setattr(hub.resource, "getrlimit", lambda what: (1024, 4096))
    monkeypatch.setattr(hub.resource, "setrlimit", lambda what, limits: asked.append(limits))
    hub._allow_descriptors(500)
    hub._allow_descriptors(2000)
    hub._allow_descriptors(10_000)
    assert asked == [(2000, 4096), (4096, 4096)]


@pytest.fixture
def star(monkeypatch):
    with Star(3, monkeypatch) as found:
        found.meet()
        yield found


def test_a_rank_that_is_there_cannot_be_there_twice(star):
    """Also with all secrets: the second one is turned away, and the first one stays."""
    one = star[2]
    second = type(one)(2, 3, star.clock)
    second.page.say("hub", star[0].page.text("hub"))
    for _ in range(100):
        star.clock.now += 0.1
        star[0].poll()
        second.poll()
    assert not second.job.side.spoke.joined
    star.go(1)
    assert not any(each.verdict for each in star.all)


def test_one_that_comes_late_says_of_the_hub_what_the_others_say(monkeypatch):
    """It comes between two beats, after rank 0 has gone on to another phase; then the hub is gone."""
    with Star(3, monkeypatch) as star:
        early, late = star[1], star[2]
        star[0].page.enter(Phase.MEET, 0)
        late.gone = True
        early.page.say("hub", star[0].page.text("hub"))
        star.go(2.5, by=0.05)
        star[0].page.enter(Phase.BUILD, 0)
        late.page.say("hub", star[0].page.text("hub"))
        late.gone = False
        while not late.job.side.spoke or not late.job.side.spoke.joined:
            star.go(0.01, by=0.01)
        star.go(0.05, by=0.01)
        assert early.job.side.spoke.first[1] == "meeting"
        star[0].job.close()
        star[0].gone = True
        star.go(10)
        assert star.verdict().phase == "meeting"


def test_a_supervisor_that_talks_nonsense_is_lost(star):
    star[1].job.side.spoke._wire._peer.send(b"nonsense\n")
    star.go(5)
    assert star[2].verdict.rank == 1


def test_closing_hands_on_what_was_said(star):
    star[1].fail(70, "x")
    star[1].poll()
    star.go(0.1)
    began = time.perf_counter()
    star.go(10)
    assert star.verdict().rank == 1
    assert time.perf_counter() - began < 60
