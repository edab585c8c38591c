"""What ranks agree on of a step's carries and losses before its update."""

import math

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.errors import NumericsError
from tttscale.scan.carry_norms import InnerNorm
from tttscale.scan.losses import Losses
from tttscale.train.non_finite import CARRY, CarryRows, StepError, check_losses


class Norms:
    """What a rank has found."""

    def __init__(self, *found, is_finite=True):
        self.found, self.is_finite = found, is_finite

    def finite(self):
        return self.is_finite

    def largest(self):
        return max(self.found, default=InnerNorm(0.0))

    def first_above(self, limit):
        return min((n for n in self.found if n.norm > limit), key=lambda n: n[1:], default=None)

    def weight(self, norm):
        return f"W{norm.weight}"


class Mesh:
    """Two replicas of two sequence ranks, one after the other."""

    world_size, sequence_size = 4, 2

    def __init__(self, rank, gathered):
        self.rank, self._gathered = rank, gathered

    def gather(self, row):
        self._gathered[self.rank] = row
        return torch.tensor(self._gathered, dtype=torch.float64)


def agreed(*norms, limit=None):
    """The rows of four ranks, as the last of them has them after the sum."""
    gathered = [[0.0] * 7] * 4
    rows = [CarryRows(n, Mesh(i, gathered), limit) for i, n in enumerate(norms)]
    total = sum(row.flat() for row in rows)
    for row in rows:
        row.load(total)
    if limit is not None:  # all ranks ask; the last one has heard the others then
        for row in rows[:-1]:
            with pytest.raises((StepError, ValueError)):
                row.check(4)
    return rows[-1]


def test_the_largest_of_all_ranks_is_a_figure():
    largest = InnerNorm(7.5, 1, 5, 2, 3, 0)
    rows = agreed(Norms(), Norms(InnerNorm(2.0, 0, 1, 1, 1, 1)), Norms(largest), Norms())
    rows.check(1)
    assert rows.figures() == {
        "inner_norm": 7.5,
        "inner_norm_layer": 2,
        "inner_norm_head": 3,
        "inner_norm_chunk": 5,
    }
    assert agreed(Norms(), Norms(), Norms(), Norms()).figures() == {}


def test_one_carry_that_is_not_finite_is_an_error_on_all():
    bad = Norms(InnerNorm(math.nan, 0, 0, 0, 0, 0), is_finite=False)
    with pytest.raises(StepError, match=CARRY) as error:
        agreed(Norms(), bad, Norms(), Norms()).check(7)
    assert (error.value.step, error.value.sound, error.value.origin) == (7, 5, "")


def test_the_first_norm_above_the_limit_is_named():
    """By replica, sequence, chunk and layer; not the largest."""
    rows = agreed(
        Norms(InnerNorm(2.0, 0, 0, 0, 0, 0)),
        Norms(InnerNorm(6.0, 0, 3, 1, 2, 1), InnerNorm(6.0, 1, 1, 0, 0, 0)),
        Norms(InnerNorm(9.0, 0, 0, 0, 0, 0)),
        Norms(),
        limit=5.0,
    )
    with pytest.raises(StepError) as error:
        rows.check(4)
    assert str(error.value) == (
        "step 4: an inner weight's norm is 6, above train.inner_norm_limit = 5, in layer 1, head 2, after "
        "chunk 3 of sequence 0 (replica 0, rank 1): W1. That is the first in scan order. Parameters are as "
        "before this step."
    )
    assert isinstance(error.value, NumericsError)


def test_the_sequence_of_a_batch_is_named():
    losses = Losses.empty(2, 3, 2, 24)
    check_losses(losses, 1, 0)
    losses.sums[1, 2, 1] = math.inf
    losses.sums[1, 0, 1] = math.nan
    losses.sums[1, 2, 0] = math.nan
    with pytest.raises(StepError) as error:
        check_losses(losses, 3, 1)
    assert error.value.what == "the loss of sequence 2 (replica 1) is not finite from chunk 2 on"


def limited(ranks):
    """A limit below the largest norm that the step before had: all ranks raise, nothing is updated."""
    config = small_config(2, sequences_per_step=2)
    trainer, model, _ = small_trainer(ranks, config)
    record = trainer.step(1, small_windows(config))
    train = config.train.model_copy(update={"inner_norm_limit": record["inner_norm"] / 2})
    trainer._config = config.model_copy(update={"train": train})
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(StepError) as error:
        trainer.step(2, small_windows(config))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return str(error.value), record["inner_norm"], record["inner_norm_chunk"]


def test_a_trainer_heeds_the_limit_on_all_ranks():
    first, second = values(run_ranks(limited, 2))
    assert first == second
    assert "above train.inner_norm_limit = " in first[0]
    assert first[1] > 0
    assert 0 <= first[2] < 6
