"""What an end means."""

import signal
import time

import pytest

from tttscale.supervise.ending import cause_of, class_of, code_of, is_interrupted, last_sign
from tttscale.supervise.page import Page, Phase


@pytest.mark.parametrize(
    ("status", "passed_on", "code"),
    [
        (0, (), 0),
        (75, (signal.SIGTERM,), 75),
        (-9, (), -9),
        (-9, (signal.SIGTERM,), -9),
        (-15, (signal.SIGTERM,), 143),
        (-1, (signal.SIGHUP,), 129),
    ],
)
def test_a_signal_that_was_passed_on_asked_for_the_end(status, passed_on, code):
    assert code_of(status, passed_on) == code


@pytest.mark.parametrize(
    ("code", "wanted"),
    [(-9, 71), (-11, 71), (65, 65), (71, 71), (74, 74), (1, 70), (2, 70), (99, 70), (143, 143)],
)
def test_its_class(code, wanted):
    assert class_of(code) == wanted


def test_its_cause_is_one_line():
    assert cause_of(70, "ValueError: a\n  b") == "ValueError: a b"
    assert cause_of(-15, "") == "killed by SIGTERM"
    assert cause_of(-6, "rank 1 lost\nrank 2").endswith("above) after: rank 1 lost rank 2")
    assert cause_of(-64, "") in ("killed by SIGRTMAX", "killed by signal 64")
    assert cause_of(143, "") == "ended by SIGTERM"
    assert cause_of(9, "") == "ended with exit code 9, without a word"


def test_interrupted():
    assert [is_interrupted(code) for code in (0, 75, -15, 77, 130, 143)] == [False] * 4 + [True] * 2


def test_the_last_sign_is_in_the_past():
    page = Page()
    page.enter(Phase.STEP, 3)
    last = last_sign(page, time.monotonic() + 5)
    assert -60 < last.at <= -5
    assert last.phase_at == last.at
    assert (last.phase, last.step) == (Phase.STEP, 3)
