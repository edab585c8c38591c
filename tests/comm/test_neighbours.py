"""The torch.distributed transport: delays, wrong messages, a peer that dies."""

import os
import random
import time

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.scan.helpers import random_tokens, relative, sweep, tiny_config, tiny_model
from tttscale.comm import mesh as meshes
from tttscale.errors import PeerError
from tttscale.model.ports import Carried
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import CarryKey, Phase
from tttscale.scan.sweep import Sweeps
from tttscale.scan.transport import SingleRank


class Delayed:
    def __init__(self, transport, seed):
        self._inner, self._random = transport, random.Random(seed + transport.rank)
        self.rank, self.size = transport.rank, transport.size

    def irecv(self, *args):
        return self._inner.irecv(*args)

    def isend(self, *args):
        time.sleep(self._random.random() * 0.003)
        self._inner.isend(*args)

    def flush(self):
        self._inner.flush()


GROUPS = [[random_tokens(27, seed=m)] for m in range(2)]


def delayed_step(ranks, layout):
    mesh = meshes.start(ranks, ranks.world_size, torch.device("cpu"))
    config = tiny_config()
    model = tiny_model(config)
    cut = Layout(layout, 27, 4, ranks.world_size, 2)
    sweeps = Sweeps(model, cut, Delayed(mesh.transport, 5), keep=ActivationPolicy(ranks.rank % 2))
    sweeps.forward(GROUPS)
    losses = sweeps.backward()
    losses.load(mesh.sum_on_cpu(losses.flat()))
    grads = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        grads[name] = mesh.sum_on_cpu(grad.clone()).numpy()
    return losses.sums.numpy(), grads


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("layout", ["striped", "contiguous"])
def test_delayed_ranks_finish_with_equal_losses(world, layout):
    expected, expected_grads = sweep(tiny_config(), GROUPS, chunk=4, kind=layout)
    for sums, grads in values(run_ranks(delayed_step, world, layout)):
        assert (sums == expected.sums.numpy()).all()
        for name, grad in grads.items():
            assert relative(torch.from_numpy(grad), expected_grads[name]) < 1e-10, name


def wrong_message(ranks):
    mesh = meshes.start(ranks, 2, torch.device("cpu"))
    carried = Carried(((2, 3),), torch.float32)
    if ranks.rank == 0:
        mesh.transport.isend(CarryKey(Phase.FORWARD, 0, 3, 1, "state"), 1, (torch.ones(2, 3),))
        mesh.transport.flush()
        return None
    pending = mesh.transport.irecv(CarryKey(Phase.FORWARD, 0, 2, 1, "state"), 0, carried)
    try:
        pending.wait()
    except PeerError as error:
        return str(error)
    return "accepted"


def test_a_message_that_was_not_expected_is_named():
    message = values(run_ranks(wrong_message, 2))[1]
    assert "expected the state of sequence 0 after chunk 2, layer 1 (header" in message
    assert "different configurations" in message


def dying_peer(ranks):
    mesh = meshes.start(ranks, 2, torch.device("cpu"))
    if ranks.rank == 0:
        time.sleep(0.5)
        os._exit(3)
    pending = mesh.transport.irecv(
        CarryKey(Phase.FORWARD, 0, 0, 0, "state"), 0, Carried(((4,),), torch.float32)
    )
    began = time.monotonic()
    try:
        pending.wait()
    except PeerError as error:
        return str(error), time.monotonic() - began
    return "no error", 0.0


def test_a_dead_peer_is_noticed_soon_and_named():
    results = run_ranks(dying_peer, 2)
    assert results[0] == ("Died", "exit code 3", "")
    message, seconds = results[1]
    assert "sequence rank 1 lost rank 0" in message
    assert seconds < 10


def dying_in_a_sum(ranks):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    if ranks.rank == 0:
        os._exit(3)
    try:
        mesh.sum_on_cpu(torch.zeros(1 << 20))
    except PeerError as error:
        return str(error)
    return "no error"


def test_a_dead_rank_is_noticed_in_a_sum_too():
    results = run_ranks(dying_in_a_sum, 2)
    assert results[0] == ("Died", "exit code 3", "")
    assert "rank 1 lost another rank in a sum over all ranks" in results[1]


def test_other_errors_are_not_taken_for_the_end_of_a_rank():
    mesh = meshes.Mesh(0, 1, 1, SingleRank())
    with pytest.raises(RuntimeError, match="shapes"), mesh.noticing("in a sum"):
        raise RuntimeError("shapes do not fit")
