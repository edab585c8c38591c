"""Outer learning rate and the inner one's warm-up."""

from itertools import pairwise

import pytest

from tests.train.small import small_config
from tttscale.config.schema import ModelSection, TrainSection
from tttscale.train.schedules import inner_lr_scale, learning_rate


def test_cosine_with_warm_up():
    train = TrainSection(steps=100, lr=1e-2, lr_final=1e-4, warmup_steps=10)
    rates = [learning_rate(train, step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == pytest.approx(1e-2)
    assert rates[54] == pytest.approx((1e-2 + 1e-4) / 2)
    assert rates[-1] == pytest.approx(1e-4)
    assert all(a > b for a, b in pairwise(rates[9:]))


def test_constant():
    train = TrainSection(steps=10, lr=1e-2, lr_schedule="constant")
    assert {learning_rate(train, step) for step in range(1, 11)} == {1e-2}


def test_inner_warm_up_of_the_mlp():
    model = ModelSection(preset="ttt-mlp-125m", inner_lr_warmup_steps=100)
    assert model.ttt_base_lr == 0.1
    assert inner_lr_scale(model, 1) == pytest.approx(0.1)  # 0.01 of 0.1
    assert inner_lr_scale(model, 51) == pytest.approx(0.55)
    assert inner_lr_scale(model, 101) == inner_lr_scale(model, 1000) == pytest.approx(1.0)
    assert inner_lr_scale(small_config().model, 1) == 1.0
