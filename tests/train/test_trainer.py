"""What a step does and reports: gradients that are no numbers, steps without tokens, waits."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.comm import mesh as meshes
from tttscale.errors import DataError, NumericsError
from tttscale.train import setup


def step_with(ranks, config, bad):
    """Two steps; in the second the last rank has `bad` in one gradient. Its error, and what changed."""
    trainer, model, sweeps = small_trainer(ranks, config)
    trainer.step(1, small_windows(config))
    plain = sweeps.backward

    def backward():
        losses = plain()
        if ranks.rank == ranks.world_size - 1:
            next(model.parameters()).grad[0, 0] = bad
        return losses

    sweeps.backward = backward
    before = [p.detach().clone() for p in model.parameters()]
    try:
        trainer.step(2, small_windows(config))
    except NumericsError as error:
        pairs = zip(before, model.parameters(), strict=True)
        return str(error), all(torch.equal(a, b) for a, b in pairs)
    return "no error", False


def all_bad_steps(ranks):
    return [
        step_with(ranks, small_config(2, stage=stage), bad)
        for stage in (0, 1, 2, 3)
        for bad in (float("inf"), float("nan"))
    ]


def test_a_gradient_that_is_no_number_ends_all_ranks_before_the_update():
    for results in values(run_ranks(all_bad_steps, 2)):
        for message, untouched in results:
            assert message.startswith("step 2: the gradient is not finite, though the loss is. ")
            assert untouched


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


def test_ranks_agree_on_all_keys_but_those_of_a_host(monkeypatch):
    found = {}
    monkeypatch.setattr(meshes, "start", lambda *_, agreed: found.update(agreed))
    place = meshes.Ranks(0, 2, 0, 2, "127.0.0.1", 1, "environment")
    config = small_config(2)
    parts = [{"store": "here/a", "weight": 3}, {"store": "here/b"}]
    config = type(config).model_validate(
        config.model_dump() | {"data": {"blend": parts, "sequence_length": 44}}
    )
    setup.connect(config, place, torch.device("cpu"))
    assert found["run.seed"] == "0"
    assert found["train.lr"] == "0.01"
    assert float(found["data.blend[0].weight"]) == 3
    assert found["train.betas"] == "[0.9, 0.95]"
    own = ("run.name", "run.dir", "logging.every", "data.blend[0].store", "parallel.threads")
    assert not set(own) & set(found)


def other_stores(ranks, fingerprints):
    mesh = meshes.start(ranks, 2, torch.device("cpu"))
    store = SimpleNamespace(fingerprint=fingerprints[ranks.rank])
    tokens = SimpleNamespace(
        components=[SimpleNamespace(key="data.store", path="here", store=store)]
    )
    try:
        setup.check_same_stores(mesh, tokens)
    except DataError as error:
        return str(error)
    return "no error"


def test_ranks_that_see_other_stores_end_on_every_rank():
    one, two = "0123456789abcdef" * 2, "1123456789abcdef" * 2
    assert values(run_ranks(other_stores, 2, [one, one])) == ["no error", "no error"]
    for said in values(run_ranks(other_stores, 2, [one, two])):
        assert "data.store = here: rank 1 has another store there" in said


@pytest.mark.parametrize(
    ("mine", "all_cores", "ranks", "asked", "expected"),
    [
        (8, 8, 1, None, 8),
        (8, 8, 4, None, 2),
        (8, 64, 8, None, 8),  # the launcher gave each rank cores of its own
        (2, 2, 3, None, 1),
        (8, 64, 8, 3, 3),
    ],
)
def test_threads_of_a_rank(monkeypatch, mine, all_cores, ranks, asked, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(mine)))
    monkeypatch.setattr("os.cpu_count", lambda: all_cores)
    found = []
    monkeypatch.setattr("torch.set_num_threads", found.append)
    config = small_config(1)
    parallel = config.parallel.model_copy(update={"threads": asked})
    config = config.model_copy(update={"parallel": parallel})
    place = meshes.Ranks(0, ranks, 0, ranks, "127.0.0.1", 1, "environment")
    setup.set_threads(config, place)
    assert found == [expected]
