"""Values by step in bounded memory."""

import math

import pytest

from tttscale.watch.thinned import Thinned


def test_few_steps_are_kept_as_they_are():
    thinned = Thinned(("loss", "lr"), most=8)
    for step in (1, 2, 5):
        thinned.add(step, {"loss": step / 2, "other": 1})
    found = thinned.columns()
    assert found["width"] == 1
    assert found["step"] == [1, 2, 5]
    assert found["loss"] == found["loss_low"] == found["loss_high"] == [0.5, 1, 2.5]
    assert found["lr"] == [None, None, None]


@pytest.mark.parametrize("steps", [9, 100, 1000])
def test_many_steps_become_means_and_extremes(steps):
    thinned = Thinned(("loss",), most=8)
    for step in range(1, steps + 1):
        thinned.add(step, {"loss": float(step)})
    found = thinned.columns()
    width = found["width"]
    assert 4 <= len(found["step"]) <= 8
    for n, middle in enumerate(found["step"]):
        members = range(n * width + 1, min((n + 1) * width, steps) + 1)
        assert middle == n * width + (width + 1) / 2
        assert found["loss"][n] == pytest.approx(sum(members) / len(members))
        assert (found["loss_low"][n], found["loss_high"][n]) == (members[0], members[-1])


@pytest.mark.parametrize("value", [math.nan, math.inf, "nan", None, True, 1e300, [1]])
def test_what_cannot_be_drawn_is_left_out(value):
    thinned = Thinned(("loss",), most=8)
    thinned.add(1, {"loss": value})
    assert thinned.columns()["loss"] == [None]


def test_a_step_far_away_takes_no_time():
    thinned = Thinned(("loss",), most=2)
    for step in (1, 10**17, 10**18):
        thinned.add(step, {"loss": 1.0})
    assert len(thinned.columns()["step"]) <= 2
