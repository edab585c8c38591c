"""Sums under the last backward: parameters as of DeepSpeed's reduction, nothing left after a failure."""

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tests.train.test_exactness import close_parameters
from tttscale.config.schema import Config
from tttscale.errors import NumericsError
from tttscale.scan.losses import Losses
from tttscale.train import build
from tttscale.train.gradient_sums import GradientSums, joined, packed
from tttscale.train.trainer import Trainer

STAGES = (0, 1, 2, 3)


def test_neighbours_of_one_rank_are_summed_together():
    assert joined([]) == []
    assert joined([(0, 3), (0, 2), (1, 5), (0, 1)]) == [(0, 5), (1, 5), (0, 1)]
    assert joined([(None, 3), (None, 2)]) == [(None, 5)]


def test_gradients_become_views_of_one_buffer():
    one, two = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))
    one.grad = torch.arange(6.0).view(3, 2).T  # not contiguous
    expected = one.grad.clone()
    flat = packed([one, two])
    assert torch.equal(one.grad, expected)
    assert torch.equal(flat, torch.cat([expected.flatten(), torch.zeros(4)]))
    flat.fill_(7)
    assert one.grad.eq(7).all()
    assert two.grad.eq(7).all()


class Wire:
    """Sums of this many equal ranks, done when they are waited for."""

    def __init__(self, ranks):
        self.ranks, self.begun, self.over = ranks, [], 0

    def begin(self, values, owner):
        self.begun.append((owner, values))

    def all_begun(self):
        self.over += 1

    def wait(self):
        for _, part in self.begun:
            part.mul_(self.ranks)
        self.begun.clear()


def test_slices_go_to_their_owners_and_nothing_is_left():
    weights = [nn.Parameter(torch.zeros(n)) for n in (4, 6, 1)]
    shares = dict(zip(weights, ([(0, 4)], [(0, 1), (1, 3), (2, 2)], [(None, 1)]), strict=True))
    wire = Wire(3)
    sums = GradientSums([weights[:2], weights[2:]], shares, wire, ranks=3)
    assert sums.wait() is None
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.full_like(weight, 3e38)
        sums.begin(0)
        assert [(owner, len(values)) for owner, values in wire.begun] == [(0, 5), (1, 3), (2, 2)]
        done = wire.over
        sums.begin(1)
        assert wire.over == done + 1
        with pytest.raises(AssertionError, match="before the next backward"):
            sums.begin(0)
        assert sums.wait() == 4  # a power of two: exact, and 3 * 3e38 / 4 is finite
        assert all(w.grad.eq(torch.tensor(3e38) / 4 * 3).all() for w in weights)


def drawn(seed):
    rng = np.random.default_rng(seed)
    world = int(rng.integers(1, 5))
    sequence = int(rng.choice([r for r in range(1, world + 1) if world % r == 0]))
    layout = str(rng.choice(["striped", "contiguous"]))
    fields = small_config(sequence, layout).model_dump()
    fields["model"] |= {
        "num_hidden_layers": int(rng.integers(1, 4)),
        "hidden_size": int(rng.choice([8, 12, 20])),
        "vocab_size": int(rng.choice([23, 61])),
        "tie_word_embeddings": bool(rng.integers(2)),
        "ttt_layer_type": str(rng.choice(["linear", "mlp"])),
    }
    fields["parallel"]["keep_chunks"] = float(rng.choice([0, 0.5, 1, 2.5, 99]))
    fields["zero"] |= {"stage": int(rng.integers(0, 3)), "overlap_reduction": True}
    fields["train"]["grad_clip"] = float(rng.choice([0.0, 0.5]))
    return world, fields


def two_steps(ranks, fields):
    config = Config.model_validate(fields)
    trainer, model, sweeps = small_trainer(ranks, config)
    summing = sweeps.final_gradients.sink is not None
    records = [trainer.step(1, small_windows(config))]
    owned = {}
    for fragment in trainer._engine.fragments():  # after the first step: a tenth of the gradient
        owned[fragment.name, fragment.start] = fragment.moments["exp_avg"].numpy().copy()
    records.append(trainer.step(2, small_windows(config)))
    owners = trainer._engine._moments.owners() if 0 < config.zero.stage < 3 else None
    parameters = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    return parameters, [(r["loss"], r["grad_norm"]) for r in records], owned, owners, summing


@pytest.mark.parametrize("seed", range(8))
def test_parameters_are_those_of_deepspeeds_reduction(seed):
    world, fields = drawn(seed)
    ours = values(run_ranks(two_steps, world, fields))
    again = values(run_ranks(two_steps, world, fields))
    fields["zero"]["overlap_reduction"] = False
    theirs = values(run_ranks(two_steps, world, fields))
    assert {one[4] for one in ours} == {world > 1}
    assert not any(one[4] for one in theirs)
    for rank in range(world):
        parameters, steps, owned, owners, _ = ours[rank]
        for name, value in parameters.items():
            assert (value == ours[0][0][name]).all(), "ranks drifted apart"
            assert (value == again[rank][0][name]).all(), "runs differ"
        assert steps == again[rank][1]
        expected = theirs[rank][0]
        if world == 1:
            assert all((value == expected[name]).all() for name, value in parameters.items())
        for key, moment in theirs[rank][2].items():
            # The biases' gradients are small sums of large parts.
            assert np.abs(owned[key] - moment).max() <= 1e-6 * max(np.abs(moment).max(), 1e-3), key
        close_parameters(parameters, expected, each=1e-4)
        assert steps[0][0] == theirs[rank][1][0][0]
        np.testing.assert_allclose(steps, theirs[rank][1], rtol=1e-5)
        if owners is not None:
            found = {}
            for name, shares in zip(parameters, owners, strict=True):
                begin = 0
                for owner, length in shares:
                    if owner == rank:
                        found[name, begin] = length
                    begin += length
                assert begin == parameters[name].size
            assert found == {key: len(moment) for key, moment in owned.items()}


def failures(ranks):
    """Steps that end before their update, and one after each, by stage."""
    found = []
    for stage in STAGES:
        config = small_config(2, sequences_per_step=1, stage=stage)
        trainer, model, _ = small_trainer(ranks, config)
        windows = small_windows(config)
        trainer.step(1, windows)
        before = [p.detach().clone() for p in model.parameters()]

        with pytest.MonkeyPatch.context() as padding:
            padding.setattr(Trainer, "_mean_loss", lambda *_: (math.nan, 0.0))
            trainer.step(2, windows)
        same = [torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]

        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(Losses, "load", lambda self, _: self.sums.fill_(math.nan))
            with pytest.raises(NumericsError, match="not finite from chunk 0 on"):
                trainer.step(2, windows)
        same += [torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]
        cleared = [p.grad is None for p in model.parameters()]
        left = trainer._engine._sums is not None and trainer._engine._sums._begun
        record = trainer.step(2, windows)

        straight, other, _ = small_trainer(ranks, config)
        straight.step(1, windows)
        assert straight.step(2, windows)["loss"] == record["loss"]
        same += [
            torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True)
        ]
        found.append((all(same), all(cleared), bool(left)))
    return found


def test_steps_without_an_update_leave_nothing_behind():
    assert values(run_ranks(failures, 2)) == [[(True, True, False)] * 4] * 2


def ends(ranks, where):
    """Rank 1 ends when its second group of gradients is final."""
    config = small_config(2, sequences_per_step=1)
    trainer, _, sweeps = small_trainer(ranks, config)
    windows = small_windows(config)
    trainer.step(1, windows)
    plain = sweeps.final_gradients.sink

    def sink(group):
        if ranks.rank == 1 and group == where:
            os._exit(9)
        plain(group)

    sweeps.final_gradients.sink = sink
    trainer.step(2, windows)


@pytest.mark.parametrize("where", [1, 3])
def test_the_end_of_a_rank_under_its_sums_is_noticed(where):
    first, second = run_ranks(ends, 2, where, timeout_seconds=60)
    assert first[0] == "PeerError"
    assert second[0] == "Died"


def another_way(ranks):
    """A DeepSpeed that does not ask for what is left out."""
    found = []
    for stage in (0, 1, 2):
        trainer, _, _ = small_trainer(ranks, small_config(2, stage=stage))
        zero = trainer._engine._engine
        if stage == 0:
            zero.enable_backward_allreduce = False
        else:
            zero.optimizer.reduce_ipg_grads = lambda *_, **__: None
        with pytest.raises(AssertionError, match="DeepSpeed reduces in another way"):
            trainer.step(1, small_windows(small_config(2, stage=stage)))
        found.append(stage)
    return found


def test_a_deepspeed_that_would_sum_again_is_noticed():
    assert values(run_ranks(another_way, 2)) == [[0, 1, 2]] * 2


def test_which_device_sums_early():
    def found(asked, stage, device):
        weight = nn.Parameter(torch.zeros(1, device=device))
        zero = SimpleNamespace(overlap_reduction=asked, stage=stage)
        model = SimpleNamespace(parameters=lambda: iter([weight]))
        return build.overlaps_reduction(SimpleNamespace(zero=zero), model)

    assert [found("auto", 1, "cpu"), found("auto", 1, "meta")] == [True, False]
    assert [found(True, 2, "meta"), found(False, 0, "cpu"), found(True, 3, "cpu")] == [
        True,
        False,
        False,
    ]
