"""One chunk through some layers: what a task leaves for the next one, forwards and backwards."""

import pytest
import torch

from tests.scan.declared import Notes
from tests.scan.helpers import gradients, random_tokens, tiny_config, tiny_model, whole_pass
from tttscale.scan.carry import CarryLayout
from tttscale.scan.carry_store import CarryStore
from tttscale.scan.chunk_runner import ChunkRunner, StepState
from tttscale.scan.layout import Layout
from tttscale.scan.losses import Losses
from tttscale.scan.ports import CarryRouter, ChunkPorts
from tttscale.scan.reader import assemble
from tttscale.scan.schedule import ChunkTask, Phase, Schedule
from tttscale.scan.step_plan import StepPlan
from tttscale.scan.transport import SingleRank

CPU, TOKENS, LAYERS = torch.device("cpu"), 7, 3
BOTTOM, TOP = range(2), range(2, LAYERS)


def task(layers, chunk=0):
    return ChunkTask(Phase.FORWARD, 0, chunk, layers)


class OneChunk:
    """A sequence of one chunk, run in two tasks: layers 0 and 1, then layer 2 with the head."""

    def __init__(self, train=True, traces=False):
        self.model = tiny_model(tiny_config(layers=LAYERS))
        self.tokens = random_tokens(TOKENS)
        self.runner = ChunkRunner(self.model, CPU, None)
        carry = CarryLayout(self.model.carry_layers, 1, TOKENS, torch.float64)
        schedule = Schedule(Layout("contiguous", TOKENS, TOKENS), carry.parts)
        self.notes = Notes(traces)
        self.router = CarryRouter(
            schedule, carry, SingleRank(), CarryStore(carry, [], CPU), self.notes
        )
        plan = StepPlan(train, (task(BOTTOM), task(TOP)), frozenset())
        losses = Losses.empty(1, 1, 1, TOKENS)
        self.step = StepState(plan, iter(()), self.router, losses)
        self.batch = assemble([self.tokens], 0, CPU)

    def ports(self, layers, replay=False):
        return ChunkPorts(self.router, task(layers), replay)

    def run(self, layers):
        self.runner.run(task(layers), self.batch, self.ports(layers), self.step)

    def record(self, layers, replay=False):
        ports = self.ports(layers, replay)
        return self.runner.record(task(layers), self.batch, ports, self.step)


@pytest.fixture
def expected():
    one = OneChunk()
    (loss,), grads = whole_pass(one.model, [one.tokens])
    return loss, grads


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-12)


def test_recomputed_tasks_have_the_gradients_of_the_whole(expected):
    one = OneChunk()
    one.run(BOTTOM)
    one.run(TOP)
    assert one.step.losses.sums.item() == 0  # in training the head is left to the recomputation
    assert set(one.step.inputs) == {(0, 0, 2)}
    for layers in (TOP, BOTTOM):
        recorded = one.record(layers, replay=True)
        one.runner.backpropagate(task(layers), recorded, one.step)
    assert one.step.losses.sums.item() == pytest.approx(expected[0], rel=1e-12)
    close(gradients(one.model), expected[1])
    assert one.step.inputs == one.step.grads == {}


def test_tasks_that_keep_their_graphs_have_them_too(expected):
    one = OneChunk()
    recorded = {layers: one.record(layers) for layers in (BOTTOM, TOP)}
    assert not one.step.inputs[0, 0, 2].requires_grad  # each task's graph ends at its input
    for layers in (TOP, BOTTOM):
        one.runner.backpropagate(task(layers), recorded[layers], one.step)
    close(gradients(one.model), expected[1])


def test_an_evaluation_has_losses_and_forgets_its_inputs(expected):
    one = OneChunk(train=False)
    one.run(BOTTOM)
    one.run(TOP)
    assert one.step.losses.sums.item() == pytest.approx(expected[0], rel=1e-12)
    assert one.step.inputs == {}
    assert gradients(one.model) == {}


def test_autocast_is_used_where_the_compute_dtype_is_another():
    one = OneChunk()
    with ChunkRunner(one.model, CPU, torch.bfloat16).precision():
        assert torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with one.runner.precision():
        assert not torch.is_autocast_enabled("cpu")
