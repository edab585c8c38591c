"""States and gradients on their way between a chunk's ports and its packed scans."""

import gc
import weakref
from collections import defaultdict

import pytest
import torch

from tests.layers import small_layer
from tttscale.model.chunk import Chunk
from tttscale.model.ports import NullPort
from tttscale.model.state_exchange import StateExchange


class Between(NullPort):
    """A chunk with neighbours: what goes through its port is written down."""

    peer_waits_for_state = peer_waits_for_grad = True

    def __init__(self, state, grad):
        self.state, self.grad, self.sent, self.returned, self.asked = state, grad, [], [], 0
        self.forward = []

    def recv_state(self):
        self.forward.append("recv")
        return self.state

    def send_state(self, part):
        self.forward.append("send")
        self.sent.append(part)

    def recv_grad(self):
        self.asked += 1
        return self.grad

    def send_grad(self, grad):
        self.returned.append(grad)


def random_like(parts, seed, rows):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, *p.shape[1:], generator=generator, dtype=p.dtype) for p in parts)


@pytest.mark.parametrize(
    "starts",
    [
        ((), ()),
        ((0,), (0,)),
        ((0,), ()),
        ((), (0,)),
        ((32,), ()),
        ((0, 48), (16, 64)),
        ((16,), (0, 16, 80)),
    ],
)
def test_states_and_gradients_are_sent_once_and_by_row(starts):
    """Each row as if it were alone, whatever the others do."""
    layer = small_layer("linear")
    initial = layer._initial_state()
    state, grad = random_like(initial, 1, 2), random_like(initial, 2, 2)
    x = torch.randn(2, 101, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def run(rows):
        part = slice(rows[0], rows[-1] + 1)
        port = Between(tuple(s[part] for s in state), tuple(g[part] for g in grad))
        y = layer(x[part], Chunk(tuple(starts[r] for r in rows)), defaultdict(NullPort, state=port))
        layer.zero_grad()
        y.square().sum().backward()
        assert (len(port.sent), port.asked, len(port.returned)) == (1, 1, 1)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in layer.parameters()]
        return [y, *port.sent[0], *port.returned[0]], grads

    both, both_grads = run([0, 1])
    (first, first_grads), (second, second_grads) = run([0]), run([1])
    for ours, *rows in zip(both, first, second, strict=True):
        assert torch.allclose(ours, torch.cat(rows), rtol=1e-11, atol=1e-11)
    for ours, a, b in zip(both_grads, first_grads, second_grads, strict=True):
        assert torch.allclose(ours, a + b, rtol=1e-10, atol=1e-11)
    for row, begins in enumerate(starts):
        assert (0 in begins) == (not any(g[row].any() for g in both[3:]))


@pytest.mark.parametrize(
    ("starts", "order"),
    [
        ((), ["recv", "send"]),
        ((0,), ["send", "recv"]),
        ((16,), ["send", "recv"]),
        ((0, 16), ["send", "recv"]),
    ],
)
def test_a_document_that_begins_in_the_chunk_does_not_wait_for_the_left(starts, order):
    layer = small_layer("linear")
    initial = layer._initial_state()
    port = Between(random_like(initial, 1, 1), random_like(initial, 2, 1))
    x = torch.randn(1, 101, 32, dtype=torch.float64)
    layer(x, Chunk((starts,)), defaultdict(NullPort, state=port))
    assert port.forward == order


@pytest.mark.parametrize("starts", [(), (0,), (16, 32, 80)])
def test_nothing_outlives_its_graph(starts, monkeypatch):
    """The exchange between scans and port is freed with the graph, and holds no state when all is sent."""
    made, make = [], StateExchange.__init__

    def recorded(self, *args):
        make(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(StateExchange, "__init__", recorded)
    layer = small_layer("linear")
    initial = layer._initial_state()
    port = Between(random_like(initial, 1, 1), random_like(initial, 2, 1))
    x = torch.randn(1, 101, 32, dtype=torch.float64, requires_grad=True)
    y = layer(x, Chunk((starts,)), defaultdict(NullPort, state=port))
    exchange = made[0]()
    assert exchange is not None
    assert exchange._received is None
    assert not exchange._states
    y.sum().backward()
    assert exchange._grad is None
    assert not exchange._grads
    del exchange, y
    port.sent.clear()
    gc.collect()
    assert made[0]() is None
