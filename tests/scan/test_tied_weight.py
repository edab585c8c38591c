"""A chunk that is cut in two adds its gradient of a shared weight as one graph does, bit for bit."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tttscale.scan.layout import Layout
from tttscale.scan.schedule import ChunkTask, Phase, Schedule
from tttscale.scan.tied_weight import TiedWeight

BOTTOM, TOP = range(1), range(1, 2)
PARTS = (("state",),) * 2


def task(layers):
    return ChunkTask(Phase.BACKWARD, 0, 0, layers)


def schedule(kind="striped"):
    return Schedule(Layout(kind, 8, 4), PARTS)


class Small:
    """Embedding and head around nothing, over several chunks."""

    def __init__(self, tied=True):
        generator = torch.Generator().manual_seed(0)
        weights = [nn.Parameter(torch.randn(7, 5, generator=generator)) for _ in range(2)]
        self.embedding, self.head = weights[0], weights[0] if tied else weights[1]
        model = SimpleNamespace(
            lm_head=SimpleNamespace(weight=self.head),
            model=SimpleNamespace(embed_tokens=SimpleNamespace(weight=self.embedding)),
        )
        self.tied_weight = TiedWeight(model)
        self.chunks = torch.randint(0, 7, (6, 4), generator=generator)

    def loss(self, x):
        return (x @ self.head.T).logsumexp(-1).sum()

    def whole(self):
        for ids in self.chunks:
            out = self.loss(self.embedding[ids])
            layers = range(2)
            self.tied_weight.backward(out, torch.ones_like(out), task(layers), schedule())
        return self.embedding.grad, self.head.grad

    def cut(self, kind="striped"):
        for ids in self.chunks:
            x = self.embedding[ids]
            leaf = x.detach().requires_grad_()
            out = self.loss(leaf)
            self.tied_weight.backward(out, torch.ones_like(out), task(TOP), schedule(kind))
            self.tied_weight.backward(x, leaf.grad, task(BOTTOM), schedule(kind))
        return self.embedding.grad, self.head.grad


@pytest.mark.parametrize("tied", [True, False])
def test_a_cut_chunk_has_the_bits_of_a_whole_one(tied):
    for found, expected in zip(Small(tied).cut(), Small(tied).whole(), strict=True):
        assert torch.equal(found, expected)


def test_the_order_of_these_sums_matters():
    """Contiguous ranks add head and embedding one after the other: another order, other bits."""
    one, other = Small().cut("contiguous")[0], Small().whole()[0]
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_part_with_the_head_comes_first():
    small = Small()
    x = small.embedding[small.chunks[0]]
    with pytest.raises(AssertionError, match="the part with the head comes first"):
        small.tied_weight.backward(x, torch.ones_like(x), task(BOTTOM), schedule())
