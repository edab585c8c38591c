"""Norms of carries: all are seen, also the last one; the largest inner weight has its place."""

import math

import pytest
import torch

from tests.scan.helpers import random_tokens, tiny_config, tiny_model
from tttscale.comm.threads import ThreadWorld
from tttscale.model.ports import Carried
from tttscale.scan.carry import CarryLayout
from tttscale.scan.carry_norms import CarryNorms, InnerNorm, norms
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import CarryKey, Phase
from tttscale.scan.sweep import Sweeps

CHUNKS, BATCH, LENGTH = 5, 2, 40


class Mine:
    """A part without heads, then one with them."""

    name = "mine"

    def carry(self, batch, tokens):
        weights = ((batch, 3, 4), (batch, 3, 2, 2))
        state = Carried(weights, names=("A", "B"), has_heads=True)
        return {"tail": Carried(((batch, 2), (batch,))), "state": state}


@pytest.fixture
def made():
    return CarryNorms(CarryLayout([Mine(), Mine()], BATCH, 4, torch.float32), BATCH)


def key(chunk=0, layer=0, part="state", phase=Phase.FORWARD, sequence=0):
    return CarryKey(phase, sequence, chunk, layer, part)


def state(value=0.0, row=0, head=0, weight=0):
    tensors = torch.zeros(BATCH, 3, 4), torch.zeros(BATCH, 3, 2, 2)
    tensors[weight][row, head].view(-1)[1] = value
    return tensors


def test_the_largest_inner_weight_has_its_place(made):
    assert made.largest() == InnerNorm(0.0)
    assert made.finite()
    made.sent(key(0), state(3.0, 1, 2, 1))
    made.sent(key(2, layer=1, sequence=1), state(5.0, row=1, head=1, weight=0))
    made.sent(key(3), state(4.0))
    made.sent(key(3, part="tail"), (torch.full((BATCH, 2), 99.0), torch.zeros(BATCH)))
    made.sent(key(3, phase=Phase.BACKWARD), state(99.0))
    found = made.largest()
    # Behind the two tensors of the tail; the second row of the second pair of sequences.
    assert found == InnerNorm(5.0, sequence=3, chunk=2, layer=1, head=1, weight=2)
    assert made.weight(found) == "A"
    assert made.weight(found._replace(weight=3)) == "B"
    assert made.weight(found._replace(weight=1)) == "tail 1"


def test_the_first_above_a_limit_is_the_first_in_scan_order_not_in_time(made):
    made.sent(key(3, layer=0), state(9.0))
    made.sent(key(1, layer=1), state(7.0, head=2))
    made.sent(key(1, layer=0), state(2.0))
    made.sent(key(1, layer=0, sequence=1), state(8.0))
    assert made.first_above(5.0) == InnerNorm(7.0, 0, 1, 1, 2, 2)
    assert made.first_above(1.0) == InnerNorm(2.0, 0, 1, 0, 0, 2)
    assert made.first_above(9.0) is None
    made.sent(key(0), state(math.nan))
    assert math.isnan(made.first_above(9.0).norm)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("part", ["tail", "state"])
def test_a_value_that_is_not_finite_is_seen(made, value, phase, part):
    sent = state(value) if part == "state" else (torch.tensor([[0, value]] * 2), torch.zeros(2))
    made.sent(key(part=part, phase=phase), sent)
    assert not made.finite()


def test_a_norm_is_that_of_each_row_and_head():
    values = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = values.square().sum((2, 3)).sqrt()
    torch.testing.assert_close(norms(values, 2), expected)
    torch.testing.assert_close(norms(values.transpose(2, 3), 2), expected)
    assert norms(values.bfloat16(), 2).dtype == torch.float32
    assert norms(torch.zeros(2, 0), 1).tolist() == [0, 0]
    assert norms(torch.tensor([3.0, -4.0]), 1).tolist() == [3, 4]
    assert norms(torch.tensor(-2.0), 1).item() == 2
    assert norms(torch.ones(2, 3, dtype=torch.int64), 1).tolist() == [0]


class Every(CarryNorms):
    """Keeps the keys, too."""

    def __init__(self, *args):
        super().__init__(*args)
        self.keys = []

    def sent(self, key, part):
        self.keys.append((key.phase, key.boundary, key.layer, key.part))
        super().sent(key, part)


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize("keep", [0, 1.5, 9])
def test_every_carry_of_a_step_is_seen_once_on_one_rank(kind, keep):
    """Whether chunks keep their activations or not; the norms are those of the same states."""
    config = tiny_config()
    tokens = [[random_tokens(LENGTH, seed=i) for i in range(BATCH)]]

    def step(transport):
        layout = Layout(kind, LENGTH, 8, transport.size)
        sweeps = Sweeps(
            tiny_model(config), layout, transport, batch=BATCH, keep=ActivationPolicy(keep)
        )
        sweeps.watch = Every(sweeps.carry, BATCH)
        sweeps.forward(tokens)
        sweeps.backward()
        sweeps.forward(tokens, train=False)
        half = len(sweeps.watch.keys)
        largest = sweeps.watch.largest()
        sweeps.watch = None
        sweeps.forward(tokens)
        sweeps.backward()
        assert sweeps.norms.largest() == largest
        assert sweeps.norms.finite()
        return sweeps.watch, half, largest, sweeps

    found = ThreadWorld(2).run(step)
    alone = ThreadWorld(1).run(step)
    assert max(found[0][2], found[1][2]) == alone[0][2]
    parts = ("pre_conv", "qk_conv", "state")
    # The states of all chunks, twice (also without training), and the gradients of all but the first's.
    assert found[0][1] + found[1][1] == alone[0][1] == len(parts) * 2 * (3 * CHUNKS - 1)
