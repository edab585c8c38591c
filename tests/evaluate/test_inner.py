"""Inner losses by layer and position: the same to the bit on any ranks, and those of the kernel's measure."""

from itertools import pairwise

import pytest
import torch

from tests.evaluate.helpers import Rows, on_ranks, split
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import ConfigError
from tttscale.evaluate.inner import InnerWatch, inner_by_position
from tttscale.evaluate.passes import Passes
from tttscale.kernels.torch_scan.inner_losses import inner_losses
from tttscale.scan.transport import SingleRank


def measured(ranks, kind, learner):
    sequences = [Rows(150, seed) for seed in range(3)]

    def work(passes, summed):
        return inner_by_position(passes, sequences, summed)

    return on_ranks(work, ranks, split(150, 16, kind), tiny_config(learner))


@pytest.mark.parametrize("learner", ["linear", "mlp"])
def test_any_number_of_ranks_gives_the_same_bits(learner):
    (alone,) = measured(1, "striped", learner)
    for kind in ("striped", "contiguous"):
        for ranks in (2, 3):
            for found in measured(ranks, kind, learner):
                assert found == alone


@pytest.mark.parametrize("learner", ["linear", "mlp"])
def test_means_are_those_of_one_scan_over_the_whole_sequence(learner):
    (found,) = measured(1, "striped", learner)
    model = tiny_model(tiny_config(learner))
    sums = torch.zeros(3, 2, 150, dtype=torch.float64)
    for seed in range(3):
        for place, block in enumerate(model.carry_layers):
            mixer = block.seq_modeling_block

            def watch(given, chunk, place=place, mixer=mixer):
                losses = inner_losses(mixer.kind, *given, 4)
                for measure, values in enumerate(losses):
                    sums[measure, place] += values[0].mean(0)

            mixer.watch = watch
        with torch.no_grad():
            model(torch.from_numpy(Rows(150, seed).ids)[None])
    assert found["edges"] == [0, 64, 91, 128, 150]
    for place, layer in enumerate(found["layers"]):
        assert layer["layer"] == place
        for measure, name in enumerate(("initial", "before", "after")):
            for n, (a, b) in enumerate(pairwise(found["edges"])):
                expected = float(sums[measure, place, a:b].mean()) / 3
                assert layer[name][n] == pytest.approx(expected, rel=1e-11)


def test_a_step_lowers_the_loss_of_its_own_mini_batch_and_watches_are_taken_off():
    """With a small rate every gradient step descends."""
    model = tiny_model(tiny_config())
    model.set_inner_lr_scale(0.05)
    passes = Passes(model, SingleRank(), split(64, 16))
    watch = InnerWatch(passes, 1)
    with watch.watching():
        passes.run([Rows(64)], lambda seen: None)
    for layer in watch.result()["layers"]:
        assert all(a < b for a, b in zip(layer["after"], layer["before"], strict=True))
    assert all(mixer.watch is None for _, mixer in watch.layers)


def test_a_model_without_ttt_layers_is_refused():
    class Bare:
        carry_layers = ()

    passes = Passes.__new__(Passes)
    passes.model = Bare()
    with pytest.raises(ConfigError, match="no TTT layer"):
        InnerWatch(passes, 1)
