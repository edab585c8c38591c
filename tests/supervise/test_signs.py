"""Durations by the clock of who looks."""

import json
import os
import signal
import time
from contextlib import suppress

import pytest

from tests.supervise.jobs import Clock, Task
from tttscale.supervise.page import Page, Phase
from tttscale.supervise.signs import LONGEST_LOOK_SECONDS, Process, Sign, Watch, WatchedClock


class Looks:
    """A page that is looked at every tenth of a second."""

    def __init__(self, monkeypatch):
        self.clock, self.process = Clock(), Process()
        monkeypatch.setattr(time, "monotonic", self.clock)
        self.page = Page()
        self.watch = Watch(self.page, lambda: self.process, WatchedClock(self.clock))

    def go(self, seconds):
        for _ in range(round(seconds * 10)):
            self.clock.now += 0.1
            sign = self.watch.look()
        return sign


@pytest.fixture
def looks(monkeypatch):
    return Looks(monkeypatch)


def test_silence_begins_with_the_last_change(looks):
    looks.page.enter(Phase.STEP, 1)
    looks.page.beat("advance", "forward", Task(), 0)
    assert looks.go(5).silent_seconds == pytest.approx(4.9)
    looks.page.beat("wait", "forward", Task(), 1)
    sign = looks.go(3)
    assert sign.silent_seconds == pytest.approx(2.9)
    assert sign.waits
    assert -sign.beat.phase_at == pytest.approx(8.0)


def test_what_is_measured_apart(looks):
    looks.go(4)
    for step, seconds in ((5, 9), (6, 2), (7, 3)):
        looks.page.enter(Phase.STEP, step)
        looks.page.beat("advance", "forward", Task(), 0)
        looks.go(seconds)
        looks.page.beat("wait", "forward", Task(), 1)
        looks.go(2 * seconds)
    looks.page.enter(Phase.CHECKPOINT)
    looks.go(7)
    looks.page.enter(Phase.STEP, 8)
    sign = looks.go(0.1)
    assert sign.busy == pytest.approx(
        {"start-up": 4, "first step": 9, "step": 3, "checkpoint": 7}, abs=0.11
    )
    assert sign.whole == pytest.approx(
        {"start-up": 4, "first step": 27, "step": 9, "checkpoint": 7}, abs=0.11
    )
    assert not sign.first


def test_what_still_lasts_does_not_count(looks):
    looks.page.enter(Phase.STEP, 5)
    looks.page.enter(Phase.STEP, 6)
    looks.page.beat("advance", "forward", Task(), 0)
    sign = looks.go(100)
    assert sign.busy.get("step", 0) == 0


def test_the_time_in_which_it_was_stopped_is_no_measure(looks):
    looks.page.enter(Phase.STEP, 5)
    looks.go(0.1)
    looks.page.enter(Phase.STEP, 6)
    looks.page.beat("advance", "forward", Task(), 0)
    looks.go(0.5)
    looks.process = Process(stopped=True)
    sign = looks.go(50)
    assert sign.stopped
    assert sign.silent_seconds > 49
    looks.process = Process()
    looks.page.beat("readout", "forward", Task(), 0)
    assert looks.go(1).busy.get("step", 0) < 1


def test_a_clock_that_was_not_read_has_not_gone_on():
    clock = Clock()
    watched = WatchedClock(clock)
    clock.now += 0.5
    assert watched() == 0.5
    clock.now += 1e6
    assert watched() == 0.5 + LONGEST_LOOK_SECONDS
    clock.now -= 1e6
    assert watched() == 0.5 + LONGEST_LOOK_SECONDS


def test_how_much_it_computes_since_the_last_change(looks):
    looks.page.beat("advance", "forward", Task(), 0)
    looks.process = Process(cpu_seconds=100.0)
    looks.go(0.1)
    looks.process = Process(cpu_seconds=104.0)
    assert looks.go(8).cpu_share == pytest.approx(0.5, abs=0.01)


def test_a_rank_that_has_said_a_cause_does_not_wait(looks):
    looks.page.enter(Phase.STEP, 1)
    looks.page.beat("wait", "forward", Task(), 0)
    assert looks.go(1).waits
    looks.page.say("cause", "a full disk")
    sign = looks.go(1)
    assert sign.failing
    assert not sign.waits


def test_what_the_system_says_of_a_process():
    child = os.fork()
    if not child:
        with suppress(KeyboardInterrupt):
            while True:
                pass
    try:
        for _ in range(600):
            time.sleep(0.1)
            if Process.of(child).cpu_seconds > 0:
                break
        else:
            pytest.fail("it has computed nothing")
        assert not Process.of(child).stopped
        os.kill(child, signal.SIGSTOP)
        os.waitpid(child, os.WUNTRACED)
        assert Process.of(child).stopped
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert Process.of(child) == Process()


def test_a_message_and_back(looks):
    looks.page.enter(Phase.STEP, 3)
    looks.page.beat("advance", "backward", Task(1, 7), 4)
    sign = looks.go(3)
    assert Sign.of(json.loads(json.dumps(sign.message()))) == sign


@pytest.mark.parametrize(
    "change",
    [
        {"beat": []},
        {"beat": None},
        {"beat": [1] * 12},
        {"is": 3},
        {"is": []},
        {"busy": []},
        {"busy": {"step": "long"}},
        {"whole": {"step": True}},
        {"cpu": None},
        {"cpu": 1e300},
    ],
)
def test_no_sign(looks, change):
    with pytest.raises((ValueError, AttributeError)):
        Sign.of(looks.watch.look().message() | change)
    with pytest.raises(ValueError, match="no sign"):
        Sign.of(None)


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("value", [None, "x", [], {}, True, 1e300])
def test_a_beat_of_wrong_words(looks, place, value):
    message = looks.watch.look().message()
    message["beat"][place] = value
    if place == 11:  # whatever is true
        Sign.of(message)
        return
    with pytest.raises(ValueError, match=r"no |not a valid"):
        Sign.of(message)


def test_outside_of_steps_a_rank_that_reads_or_writes_makes_progress(looks):
    looks.page.enter(Phase.CHECKPOINT)
    looks.go(5)
    for written in range(1, 5):
        looks.process = Process(io_bytes=written * 1_000_000)
        assert looks.go(1).silent_seconds < 1
    looks.process = Process(io_bytes=4_000_100)  # such as a line of a log
    assert looks.go(5).silent_seconds > 4
    looks.page.enter(Phase.STEP, 1)
    looks.go(1)
    looks.process = Process(io_bytes=9_000_000)
    assert looks.go(5).silent_seconds > 4


def test_what_the_system_says_of_reads_and_writes(tmp_path):
    before = Process.of(os.getpid()).io_bytes
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    assert Process.of(os.getpid()).io_bytes >= before + 1_000_000
