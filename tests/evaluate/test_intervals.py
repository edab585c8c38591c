"""Intervals against tables, and their coverage of what they estimate."""

import math

import numpy as np
import pytest

from tttscale.evaluate.intervals import mean_interval, student_t, wilson


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)],
)
def test_student_t_is_that_of_tables(degrees, expected):
    assert student_t(degrees) == pytest.approx(expected, rel=1e-5)


def test_student_t_tends_to_the_normal():
    assert student_t(2000) == pytest.approx(1.9612, rel=1e-4)


def test_equal_counts_give_the_t_interval():
    means = [2.0, 2.5, 3.5]
    found = mean_interval([m * 7 for m in means], [7] * 3)
    reach = 4.30265 * np.std(means, ddof=1) / math.sqrt(3)
    assert found.value == pytest.approx(8 / 3)
    assert found.high - found.value == pytest.approx(reach, rel=1e-5)
    assert found.value - found.low == pytest.approx(reach, rel=1e-5)


def test_longer_sequences_weigh_more_and_empty_ones_nothing():
    assert mean_interval([3.0, 0.0, 10.0], [1, 0, 9]).value == pytest.approx(1.3)


def test_one_sequence_has_no_interval():
    found = mean_interval([3.0], [2])
    assert found.value == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_token_has_no_mean():
    assert math.isnan(mean_interval([0.0], [0]).value)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        found = mean_interval(rng.normal(1.0, 2.0, 5).tolist(), [1] * 5)
        held += found.low <= 1.0 <= found.high
    assert 0.935 < held / 2000 < 0.965


def test_wilson_is_that_of_its_formula_and_stays_inside():
    found = wilson(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 20).low == 0.0
    assert wilson(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert wilson(20, 20).high == pytest.approx(1.0)
    assert math.isnan(wilson(0, 0).value)
