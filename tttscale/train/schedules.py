"""Learning rates of a step: the outer one and the warm-up of the inner one."""

import math

from tttscale.config.schema import ModelSection, TrainSection


def learning_rate(train: TrainSection, step: int) -> float:
    """Return the outer learning rate of step 1, 2, ..., train.steps.

    It climbs linearly from lr / warmup_steps to lr (paper, appendix C, but the first update is not wasted
    on a rate of 0), and falls as lr_schedule says, so that the last step is at lr_final. The step at which
    the fall begins, the last of the warm-up or the first of all, is at lr; so is a run's only step. A warm-up
    of more steps than there are is cut off where they end.
    """
    peak = max(1, train.warmup_steps)
    if step <= peak:
        return train.lr * (step / peak)
    if train.lr_schedule == "constant":
        return train.lr
    if train.lr_schedule == "wsd":
        peak = max(peak, train.steps - (train.decay_steps or max(1, train.steps // 10)))
    if step <= peak:
        return train.lr
    if step >= train.steps:
        return train.lr_final
    progress = (step - peak) / (train.steps - peak)
    left = 1 - progress if train.lr_schedule == "wsd" else 0.5 * (1 + math.cos(math.pi * progress))
    return train.lr_final + (train.lr - train.lr_final) * left


def inner_lr_scale(model: ModelSection, step: int) -> float:
    """Return the multiplier of ttt_base_lr at step 1, 2, ...: from inner_lr_warmup_init to ttt_base_lr.

    The JAX training code warms up TTT-MLP's 0.1 from 0.01 like this. 1 without a warm-up, and exactly 1
    after it.
    """
    if step > model.inner_lr_warmup_steps:
        return 1.0
    start, base = model.inner_lr_warmup_init, model.ttt_base_lr
    progress = (step - 1) / model.inner_lr_warmup_steps
    return (start + progress * (base - start)) / base


def schedule_notices(train: TrainSection, model: ModelSection) -> list[str]:
    """Say which part of a schedule lies beyond train.steps."""
    notices, steps = [], train.steps
    warmup, inner = train.warmup_steps, model.inner_lr_warmup_steps
    if steps < warmup or (1 < warmup == steps and train.lr_schedule != "constant"):
        notices.append(
            f"train.warmup_steps = {warmup:,}, of train.steps = {steps:,}: the learning rate only climbs, to "
            f"{learning_rate(train, steps):.4g} (train.lr = {train.lr:.4g})"
        )
    if steps <= inner:
        reached = inner_lr_scale(model, steps) * model.ttt_base_lr
        notices.append(
            f"model.inner_lr_warmup_steps = {inner:,}, of train.steps = {steps:,}: the inner learning rate "
            f"only climbs, to {reached:.4g}; held-out losses are taken at model.ttt_base_lr = "
            f"{model.ttt_base_lr:.4g}"
        )
    return notices


def rate_changes(
    step: int, then: tuple[TrainSection, ModelSection], now: tuple[TrainSection, ModelSection]
) -> list[str]:
    """Say which rates of a step differ from those of an earlier configuration.

    Args:
        step: the next one.
        then: what the run has trained with so far.
        now: what it resumes with.
    """
    rates = [
        {
            "learning rate": learning_rate(train, step),
            "inner learning rate": inner_lr_scale(model, step) * model.ttt_base_lr,
        }
        for train, model in (then, now)
    ]
    notices = []
    for name, before in rates[0].items():
        after = rates[1][name]
        if after != before:
            notices.append(
                f"the {name} of step {step:,} is {after:.4g}; as configured before it would be {before:.4g}"
                f"{_how_to_extend(then[0], now[0]) * (name == 'learning rate' and after > before)}"
            )
    return notices


def _how_to_extend(then: TrainSection, now: TrainSection) -> str:
    """Say what to do about a rate that rises again because there are more steps."""
    if then.steps == now.steps or now.lr_schedule == "constant":
        return ""
    if now.lr_schedule == "wsd":
        return (
            ". It has decayed already; a step before the decay is a better one to resume from "
            "(checkpoint.resume=N)"
        )
    return ". A run that may be extended does not rise again with train.lr_schedule=wsd"
