"""A command that must end: what it was at is told, and the process ends with that answer's code."""

import threading

import pytest

from tttscale.doctor import deadline
from tttscale.doctor.deadline import Deadline


@pytest.fixture
def ended(monkeypatch):
    """Codes with which the process would have ended, and an event for the first."""
    codes, over = [], threading.Event()

    def end(code):
        codes.append(code)
        over.set()

    monkeypatch.setattr(deadline.os, "_exit", end)
    return codes, over


def test_what_was_going_on_is_told(ended):
    codes, over = ended
    told = []

    def end(stage):
        told.append(stage)
        return 3

    with Deadline(0.05, end) as limit:
        limit.stage = "a dead disk"
        assert over.wait(10)
    assert (told, codes) == (["a dead disk"], [3])


def test_an_answer_that_fails_still_ends_the_process(ended):
    codes, over = ended
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", seen.append)
        with Deadline(0.05, lambda stage: 1 // 0):
            assert over.wait(10)
            while not seen:
                over.wait(0.001)
    assert codes == [1]
    assert seen[0].exc_type is ZeroDivisionError


def test_who_is_done_in_time_goes_on(ended):
    codes, over = ended
    with Deadline(0.05, lambda stage: 3) as limit:
        assert limit.stage == "the start"
    assert not over.wait(0.2)
    assert codes == []
