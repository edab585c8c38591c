"""Learning rates of a step: the outer one, and the warm-up of the inner one."""

import math

from tttscale.config.schema import ModelSection, TrainSection


def learning_rate(train: TrainSection, step: int) -> float:
    """Outer learning rate of step 1, 2, ..., train.steps.

    Linear from lr / warmup_steps to lr, then constant or a cosine that reaches lr_final at the last step
    (paper, appendix C, but its first update is not wasted on a rate of 0).
    """
    if step <= train.warmup_steps:
        return train.lr * step / train.warmup_steps
    if train.lr_schedule == "constant":
        return train.lr
    span = max(1, train.steps - train.warmup_steps)
    progress = min(1.0, (step - train.warmup_steps) / span)
    return train.lr_final + (train.lr - train.lr_final) * 0.5 * (1 + math.cos(math.pi * progress))


def inner_lr_scale(model: ModelSection, step: int) -> float:
    """Multiplier of ttt_base_lr at step 1, 2, ...: from inner_lr_warmup_init up to ttt_base_lr.

    As the JAX training code warms up TTT-MLP's 0.1 from 0.01; 1 without a warm-up.
    """
    if model.inner_lr_warmup_steps == 0:
        return 1.0
    progress = min(1.0, (step - 1) / model.inner_lr_warmup_steps)
    start, base = model.inner_lr_warmup_init, model.ttt_base_lr
    return (start + progress * (base - start)) / base
