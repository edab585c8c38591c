"""What one chunk adds to one parameter's gradient: the same bits on any number of ranks, in either layout."""

import itertools
import threading
from collections import defaultdict

import numpy as np
import pytest
import torch

from tests.scan.helpers import K, random_tokens, tiny_config, tiny_model
from tttscale.comm.threads import ThreadWorld
from tttscale.kernels.torch_scan import group_scan
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

GROUP = 2  # mini-batches
CHUNK = 3 * GROUP * K + K  # four groups of a scan, the last a short one
LENGTH = 4 * CHUNK + 2 * GROUP * K + 3  # five chunks
SPLITS = [
    (ranks, layout, keep)
    for ranks, layout, keep in itertools.product((1, 2, 3, 4), ("striped", "contiguous"), (0, 3))
    if (ranks, layout, keep) != (1, "striped", 0)
]
SPLITS += [(2, "striped", 1), (3, "contiguous", 2)]


class Watched(Sweeps):
    """Takes each parameter's gradient off after every task's backward."""

    def __init__(self, *arguments, found, **options):
        super().__init__(*arguments, **options)
        self._found, self._plain = found, self.runner.backpropagate
        self.runner.backpropagate = self._backpropagate

    def _backpropagate(self, task, recorded, step):
        self._plain(task, recorded, step)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                self._found[task.sequence, task.chunk, name].append(parameter.grad)
                parameter.grad = None


def contributions(config, groups, ranks, layout, keep, autocast=None):
    """(sequence, chunk, parameter) -> the gradients that its backward calls add, in order."""
    split = Layout(layout, LENGTH, CHUNK, ranks, len(groups))
    found, lock = {}, threading.Lock()

    def rank(transport):
        mine = defaultdict(list)
        sweeps = Watched(
            tiny_model(config, torch.float32),
            split,
            transport,
            batch=len(groups[0]),
            keep=ActivationPolicy(keep),
            autocast=autocast,
            found=mine,
        )
        sweeps.forward(groups)
        sweeps.backward()
        with lock:
            assert not mine.keys() & found.keys()
            found.update(mine)

    ThreadWorld(ranks).run(rank)
    return found


def assert_equal(ours, theirs, *, exempt):
    assert ours.keys() == theirs.keys()
    for key, parts in ours.items():
        others = theirs[key]
        if key[2] in exempt:
            parts, others = [sum(parts)], [sum(others)]
        assert len(parts) == len(others) == 1, key
        assert torch.equal(parts[0], others[0]), key


def check(config, groups, splits, autocast=None):
    alone = contributions(config, groups, 1, "striped", 0, autocast)
    names = {name for name, _ in tiny_model(config).named_parameters()}
    assert {name for _, chunk, name in alone if chunk == 0} == names
    assert {chunk for _, chunk, _ in alone} == set(range(5))
    for ranks, layout, keep in splits:
        # Contiguous ranks run one layer at a time: a tied embedding gets what the head and what the
        # tokens ask of it in two backward calls, and so in another order among the chunks.
        tied = config.tie_word_embeddings and layout == "contiguous"
        exempt = {"model.embed_tokens.weight"} if tied else set()
        split = contributions(config, groups, ranks, layout, keep, autocast)
        assert_equal(split, alone, exempt=exempt)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(group_scan, "GROUP", GROUP)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_equal_for_every_split(kind, tied):
    config = tiny_config(kind, tie_word_embeddings=tied)
    check(config, [[random_tokens(LENGTH, seed=m)] for m in range(2)], SPLITS)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_equal_in_bf16(kind):
    config = tiny_config(kind, "transformer", hidden_size=16)
    splits = [(2, "striped", 0), (3, "striped", 1), (3, "contiguous", 0)]
    check(config, [[random_tokens(LENGTH)]], splits, torch.bfloat16)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_equal_with_documents_and_rows_side_by_side(kind):
    rows = [random_tokens(LENGTH, seed=seed) for seed in range(2)]
    starts = (0, 2 * GROUP * K, CHUNK + K, 3 * CHUNK), (0, 2 * CHUNK + GROUP * K, 4 * CHUNK + K)
    for tokens, begins in zip(rows, starts, strict=True):
        tokens.starts, tokens.padded = begins, np.zeros(LENGTH, dtype=bool)
    check(tiny_config(kind), [rows], [(2, "striped", 0), (4, "striped", 2), (3, "contiguous", 1)])
