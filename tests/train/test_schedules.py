"""Outer learning rate and the inner one's warm-up."""

import random
from itertools import pairwise

import pytest

from tests.train.small import small_config
from tttscale.config.schema import ModelSection, TrainSection
from tttscale.train.schedules import inner_lr_scale, learning_rate, rate_changes, schedule_notices


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


def drawn(schedule, generator):
    """A random run with room for its warm-up and its decay."""
    steps = generator.choice([1, 2, 3, 10, generator.randint(1, 3000)])
    warmup = generator.choice([0, 0, 1, generator.randint(0, steps - 1)])
    decay = generator.choice([None, generator.randint(1, max(1, steps - warmup))])
    lr = generator.uniform(1e-5, 3.0)
    return TrainSection(
        steps=steps,
        warmup_steps=min(warmup, steps - 1),
        lr=lr,
        lr_final=generator.choice([0.0, lr, lr * generator.random()]),
        lr_schedule=schedule,
        decay_steps=decay if schedule == "wsd" else None,
    )


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_both_ends_of_every_schedule(schedule):
    generator = random.Random(schedule)
    for _ in range(300):
        train = drawn(schedule, generator)
        rates = [learning_rate(train, step) for step in range(1, train.steps + 1)]
        top = max(1, train.warmup_steps) - 1
        assert rates[top] == max(rates) == train.lr, train
        assert all(a <= b for a, b in pairwise(rates[: top + 1])), train
        assert all(a * (1 + 1e-15) >= b for a, b in pairwise(rates[top:])), train
        if train.warmup_steps:
            assert rates[0] == pytest.approx(train.lr / train.warmup_steps)
        if train.steps > 1 and schedule != "constant":
            assert rates[-1] == min(rates[top:]) == train.lr_final, train


def test_a_run_of_one_step_is_at_the_peak():
    for schedule in ("cosine", "wsd", "constant"):
        for warmup in (0, 1):
            train = TrainSection(steps=1, lr=0.3, lr_schedule=schedule, warmup_steps=warmup)
            assert learning_rate(train, 1) == 0.3
            assert schedule_notices(train, ModelSection()) == []


def test_wsd_is_flat_until_its_decay_however_many_steps_there_are():
    long, longer = (
        TrainSection(
            steps=steps, lr=1e-2, lr_final=0, warmup_steps=4, lr_schedule="wsd", decay_steps=10
        )
        for steps in (50, 500)
    )
    for step in range(1, 41):
        assert learning_rate(long, step) == learning_rate(longer, step)
    assert learning_rate(long, 45) == pytest.approx(5e-3)
    plain = TrainSection(steps=100, lr=1e-2, lr_final=0, lr_schedule="wsd")
    assert learning_rate(plain, 90) == 1e-2
    assert learning_rate(plain, 91) == pytest.approx(9e-3)


def test_a_warm_up_longer_than_the_run_is_cut_off_and_said():
    train = TrainSection(steps=20, lr=1.0, warmup_steps=100)
    assert [learning_rate(train, step) for step in (1, 20)] == pytest.approx([0.01, 0.2])
    (remark,) = schedule_notices(train, ModelSection())
    assert "train.warmup_steps = 100, of train.steps = 20" in remark
    assert "to 0.2 (train.lr = 1)" in remark
    model = ModelSection(preset="ttt-mlp-125m", inner_lr_warmup_steps=20)
    _, remark = schedule_notices(train, model)
    assert "to 0.0955; held-out losses are taken at model.ttt_base_lr = 0.1" in remark
    assert (
        schedule_notices(
            TrainSection(steps=20, warmup_steps=20, lr_schedule="constant"), ModelSection()
        )
        == []
    )


@pytest.mark.parametrize("base", [0.1, 0.3, 1.0, 0.7])
@pytest.mark.parametrize("steps", [0, 1, 3, 49])
def test_both_ends_of_the_inner_warm_up(base, steps):
    model = ModelSection(ttt_base_lr=base, inner_lr_warmup_steps=steps, inner_lr_warmup_init=0.01)
    scales = [inner_lr_scale(model, step) for step in range(1, 100)]
    assert scales[0] == pytest.approx(0.01 / base if steps else 1.0)
    assert set(scales[steps:]) == {1.0}
    assert all(a < b for a, b in pairwise(scales[: steps + 1]))


def test_what_follows_from_changed_keys_is_said_with_both_values():
    model = ModelSection()
    short = TrainSection(steps=4, lr=1e-2, lr_final=1e-3, warmup_steps=1)
    long = short.model_copy(update={"steps": 8})
    (remark,) = rate_changes(5, (short, model), (long, model))
    assert (
        "the learning rate of step 5 is 0.004499; as configured before it would be 0.001" in remark
    )
    assert "train.lr_schedule=wsd" in remark
    assert rate_changes(5, (long, model), (long, model)) == []
    wsd = short.model_copy(update={"lr_schedule": "wsd"})
    (remark,) = rate_changes(5, (wsd, model), (wsd.model_copy(update={"steps": 80}), model))
    assert "is 0.01; as configured before it would be 0.001" in remark
    assert "checkpoint.resume=N" in remark
    (remark,) = rate_changes(3, (wsd, model), (wsd, ModelSection(ttt_base_lr=0.5)))
    assert remark == "the inner learning rate of step 3 is 0.5; as configured before it would be 1"
