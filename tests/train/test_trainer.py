"""What a step does and reports: gradients that are no numbers, steps without tokens, waits."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.errors import NumericsError

INF, NAN = float("inf"), float("nan")
BAD = {
    ("fp32", 0.0): [(0.0, INF), (0.0, 1e25), (3e38, 3e38)],
    ("fp32", 1.0): [(NAN, 0.0), (INF, -INF), (1e25, 0.0)],
    ("bf16", 0.0): [(0.0, 1e25)],
    ("bf16", 1.0): [(3e38, 3e38)],
}
"""What each of two ranks has in one gradient, by precision and train.grad_clip."""


def let_gradient_be(value, model, sweeps):
    """Let one element of the embedding's gradient on this rank be `value` in the next steps."""
    final = sweeps.final_gradients
    plain, last = final.sink, len(final.groups) - 1

    def sink(group):
        if group == last:
            next(model.parameters()).grad[0, 0] = value
        if plain is not None:
            plain(group)

    final.sink = sink


def step_with(ranks, config, bad):
    """Two steps; in the second each rank has a value of `bad` in one gradient. Its error; what changed."""
    trainer, model, sweeps = small_trainer(ranks, config)
    trainer.step(1, small_windows(config))
    let_gradient_be(bad[ranks.rank], model, sweeps)

    def state():
        moments = [m for f in trainer._engine.fragments() for m in f.moments.values()]
        return [t.detach().clone() for t in [*model.parameters(), *moments]]

    before, updates = state(), trainer._engine.updates()
    try:
        trainer.step(2, small_windows(config))
    except NumericsError as error:
        same = all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
        return str(error), same and updates == trainer._engine.updates()
    return "no error", False


def all_bad_steps(ranks, precision, clip, bad):
    return [
        step_with(
            ranks,
            small_config(2, "striped", 1, stage, precision=precision, grad_clip=clip),
            one,
        )
        for stage in (0, 1, 2, 3)
        for one in bad
    ]


@pytest.mark.parametrize(("precision", "clip"), BAD)
def test_a_gradient_that_cannot_be_used_is_one_error_at_every_stage(precision, clip):
    """Not finite on one rank, finite but huge, or finite on each rank and too large as a sum."""
    bad = BAD[precision, clip]
    first, second = values(run_ranks(all_bad_steps, 2, precision, clip, bad))
    assert first == second
    for (message, untouched), one in zip(first, 4 * bad, strict=True):
        said = "the gradient is too large, though the loss is finite: its norm is above 1e+19"
        if not np.isfinite(one).all():
            said = "the gradient is not finite, though the loss is. "
        assert message.startswith(f"step 2: {said}")
        assert "model.embed_tokens.weight" in message
        assert untouched


def large_gradient(ranks):
    """The largest that is still used: clipped, it is a step of length one at most."""
    found = {}
    for stage in (0, 1, 2, 3):
        config = small_config(2, sequences_per_step=1, stage=stage, grad_clip=1.0, steps=3)
        trainer, model, sweeps = small_trainer(ranks, config)
        let_gradient_be(1e20 if ranks.rank == 0 else 0.0, model, sweeps)
        records = [trainer.step(step, small_windows(config)) for step in (1, 2)]
        moments = [m for f in trainer._engine.fragments() for m in f.moments.values()]
        finite = all(t.isfinite().all() for t in [*model.parameters(), *moments])
        found[stage] = [r["grad_norm"] for r in records], bool(finite)
    return found


def test_a_large_gradient_is_clipped_alike_at_every_stage():
    for found in values(run_ranks(large_gradient, 2)):
        for norms, finite in found.values():
            assert norms == pytest.approx([1e20 / 44] * 2, rel=1e-5)
            assert finite


def broken_update(ranks):
    """AdamW leaves a weight of one rank's share infinite."""
    config = small_config(2)
    trainer, model, _ = small_trainer(ranks, config)
    plain = trainer._engine.step

    def step(scale):
        norm = plain(scale)
        if ranks.rank == 1:
            next(model.parameters()).data[0, 0] = float("inf")
        return norm

    trainer._engine.step = step
    with pytest.raises(
        NumericsError, match=r"step 1: its update has made weights that are no"
    ) as e:
        trainer.step(1, small_windows(config))
    return str(e.value)


def test_an_update_that_breaks_weights_ends_all_ranks():
    first, second = values(run_ranks(broken_update, 2))
    assert first == second


def step_of_padding(ranks):
    config = small_config(1)
    trainer, model, _ = small_trainer(ranks, config)
    first = trainer.step(1, small_windows(config))
    before = [p.detach().clone() for p in model.parameters()]
    nothing = small_windows(config)
    sequence = nothing.sequence

    def masked(index):
        found = sequence(index)
        chunk = found.chunk

        class Masked:
            def chunk(self, begin, end):
                part = chunk(begin, end)
                return replace(part, labels=np.full_like(part.labels, -100))

        return Masked()

    nothing.sequence = masked
    empty = trainer.step(2, nothing)
    after = trainer.step(3, small_windows(config))
    same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return first, empty, after, same


def test_a_step_without_tokens_changes_nothing_and_has_no_loss():
    first, empty, after, same = values(run_ranks(step_of_padding, 1))[0]
    assert first["tokens"] == empty["tokens"] < after["tokens"] == 2 * first["tokens"]
    assert empty["loss"] != empty["loss"]
    assert empty["grad_norm"] == empty["tokens_per_second"] == 0
    assert not same  # the step after it was one


def slow_rank(ranks):
    config = small_config(2, sequences_per_step=2)
    trainer, _, sweeps = small_trainer(ranks, config)
    record = trainer.step(1, small_windows(config))
    if ranks.rank == 1:
        plain = sweeps.backward
        sweeps.backward = lambda: (plain(), time.sleep(0.6))[0]
    slow = trainer.step(2, small_windows(config))
    return record["tokens"], slow["bubble_fraction"] * slow["step_seconds"]


def test_waiting_for_the_last_rank_is_part_of_the_bubble():
    for tokens, idle_seconds in values(run_ranks(slow_rank, 2)):
        assert tokens == 2 * 44  # one window has a label for each of its positions
        assert idle_seconds > 0.25  # of two ranks one waits, at least 0.5 s


def one_rank(ranks):
    config = small_config(1)
    trainer, _, _ = small_trainer(ranks, config)
    return trainer.step(1, small_windows(config))


def test_a_single_rank_waits_for_nobody():
    assert values(run_ranks(one_rank, 1))[0]["exposed_comm_seconds"] == 0
