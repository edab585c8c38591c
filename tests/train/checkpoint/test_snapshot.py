"""A copy of a run's tensors in one buffer, which later copies use again."""

from dataclasses import replace

import pytest
import torch

from tests.scan.helpers import tiny_config, tiny_model
from tests.train.test_recorder import TOKENS
from tttscale.model.pretrained import weights_of
from tttscale.train.checkpoint import snapshot as snapshot_module
from tttscale.train.checkpoint.snapshot import HostCopy, Snapshot


def snapshot_of(weights, moments):
    return Snapshot(3, 7, 2, "id", {}, TOKENS, tiny_config(), weights, moments)


@pytest.fixture
def own():
    """Tensors of a run, of odd sizes."""
    weights = weights_of(tiny_model(tiny_config(), torch.float32))
    weights["half"] = torch.randn(3, 5).to(torch.bfloat16)
    moments = {
        "w/exp_avg/0": torch.randn(7),
        "w/exp_avg_sq/0": torch.rand(7),
        "v/exp_avg/9": torch.randn(20)[3:14],
        "v/exp_avg_sq/9": torch.rand(0),
    }
    return snapshot_of(weights, moments)


def tensors(snapshot):
    return list((snapshot.weights | snapshot.moments).values())


def same(one, other):
    assert list(one.weights) == list(other.weights)
    assert list(one.moments) == list(other.moments)
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_a_copy_stays_what_it_was(own):
    copy = HostCopy(1).take(own)
    assert same(own, copy)
    before = [tensor.clone() for tensor in tensors(own)]
    for tensor in tensors(own):
        tensor.add_(1)
    assert not same(own, copy)
    assert all(map(torch.equal, tensors(copy), before))
    assert (copy.step, copy.tokens, copy.updates, copy.wandb_id) == (3, 7, 2, "id")


def test_later_copies_take_no_more_memory(own):
    host = HostCopy(1)
    places = []
    for _ in range(3):
        copy = host.take(own)
        places.append([tensor.data_ptr() for tensor in tensors(copy)])
        for tensor in tensors(own):
            tensor.mul_(2)
    assert places[0] == places[1] == places[2]
    used = len({t.untyped_storage().data_ptr() for t in tensors(copy) if t.numel()})
    assert used == 1


def test_there_are_moments_only_after_the_first_update(own):
    host = HostCopy(1)
    early = replace(own, moments={})
    assert same(early, host.take(early))
    assert same(own, host.take(own))
    assert same(early, host.take(early))


def test_a_host_without_the_memory_makes_no_copy(own, monkeypatch):
    size = sum(t.numel() * t.element_size() for t in tensors(own))
    moments = sum(t.numel() * t.element_size() for t in own.moments.values())
    free = [0]
    monkeypatch.setattr(snapshot_module, "available_bytes", lambda: free[0])
    host = HostCopy(1)
    for free[0] in (0, size):
        assert host.take(own) is None
    free[0] = 2 * size
    assert host.take(own) is not None
    free[0] = 0
    assert host.take(own) is not None  # it has its room already
    free[0] = 2 * size
    many = 2 + 2 * size // moments  # the other ranks of this host copy moments, too
    assert HostCopy(many).take(own) is None


def test_what_is_not_finite_is_named(own):
    assert own.not_finite() is None
    own.moments["v/exp_avg/9"][4] = float("nan")
    assert own.not_finite() == "exp_avg of v"
    name = list(own.weights)[2]
    own.weights[name].view(-1)[-1] = float("-inf")
    assert own.not_finite() == name
