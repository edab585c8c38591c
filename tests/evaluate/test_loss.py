"""Loss by position: that of the whole pass, the same to the bit on any number of ranks."""

import json
import math
from itertools import pairwise

import pytest
import torch

from tests.evaluate.helpers import Rows, on_ranks, split
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.evaluate.loss import PositionLosses, loss_by_position


def measured(ranks, kind="striped", count=4, length=150, learner="linear", mask=False):
    sequences = [Rows(length, seed) for seed in range(count)]
    if mask:
        sequences[0].labels[:70] = -100

    def work(passes, summed):
        return loss_by_position(passes, sequences, summed)

    config = tiny_config(learner)
    return on_ranks(work, ranks, split(length, 16, kind), config), sequences


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize("learner", ["linear", "mlp"])
def test_any_number_of_ranks_gives_the_same_bits(kind, learner):
    (alone,), _ = measured(1, learner=learner)
    for ranks in (1, 2, 3):
        for found in measured(ranks, kind, learner=learner)[0]:
            assert found == alone


def test_token_losses_are_the_same_bits_on_any_number_of_ranks():
    """Pieces of one token each: what is summed is every token's own loss."""
    sequences = [Rows(44, seed) for seed in range(2)]

    def work(passes, summed):
        losses = PositionLosses(passes, 2)
        losses.pieces._borders = list(range(45))
        losses.sums, losses.counts = losses.pieces.table(2), losses.pieces.table(2)
        passes.run(sequences, losses.see)
        return losses.sums

    for kind in ("striped", "contiguous"):
        (alone,) = on_ranks(work, 1, split(44, kind="striped"))
        assert alone.min() > 0
        for ranks in (2, 3):
            assert torch.equal(sum(on_ranks(work, ranks, split(44, kind=kind))), alone)


def test_it_is_the_loss_of_the_whole_pass():
    (found,), sequences = measured(1, mask=True)
    model, by_sequence = tiny_model(tiny_config()), []
    with torch.no_grad():
        for sequence in sequences:
            logits = model(torch.from_numpy(sequence.ids)[None]).logits[0]
            labels = torch.from_numpy(sequence.labels)
            losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            by_sequence.append(torch.where(labels == -100, torch.nan, losses))
    every = torch.stack(by_sequence)
    edges, at = found["positions"]["edges"], found["positions"]
    assert edges == [0, 64, 91, 128, 150]
    for n, (a, b) in enumerate(pairwise(edges)):
        assert at["loss"][n] == pytest.approx(every[:, a:b].nanmean().item(), rel=1e-12)
        assert at["tokens"][n] == int(every[:, a:b].isfinite().sum())
        assert at["low"][n] < at["loss"][n] < at["high"][n]
    assert found["loss"] == pytest.approx(every.nanmean().item(), rel=1e-12)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["tokens"] == 4 * 150 - 70


def test_one_sequence_has_no_band_and_all_is_json():
    (found,), _ = measured(1, count=1)
    assert found["low"] is None
    assert found["positions"]["high"] == [None] * 4
    assert json.loads(json.dumps(found, allow_nan=False)) == found
