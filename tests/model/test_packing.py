"""Documents of a chunk side by side: every token in its place, and nothing waits that need not."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.layers import small_layer
from tttscale.model import ttt_layer
from tttscale.model.chunk import NO_NEIGHBOURS, Chunk, OpenEdge
from tttscale.model.crossing import Crossing
from tttscale.model.documents import LIMITS, Limits, Packing, cut, stack

CPU = torch.device("cpu")


@st.composite
def chunks(draw):
    """Starts of some rows, the rows' length, the mini-batch."""
    size = draw(st.integers(1, 5))
    length = draw(st.integers(1, 60))
    places = st.integers(0, (length - 1) // size)
    rows = draw(st.lists(st.sets(places, max_size=8), min_size=1, max_size=3))
    return tuple(tuple(sorted(p * size for p in row)) for row in rows), length, size


@given(chunks(), st.integers(1, 5), st.sampled_from([2, 4, 16]))
def test_every_token_has_one_place_and_its_mini_batch(chunk, most_pieces, places_to_one):
    starts, length, size = chunk
    stacks = stack(
        list(cut(starts, length)), size, 10, Limits(places_to_one, 10 * most_pieces, 100)
    )
    taken = []
    for one in stacks:
        assert len(one.pieces) <= most_pieces
        places = one.places(length)
        for offset, piece, row in zip(one.offsets, one.pieces, places, strict=True):
            tokens = row[row >= 0].tolist()
            begin = piece.row * length + piece.begin
            assert tokens == list(range(begin, piece.row * length + piece.end))
            assert (row[offset], offset % size) == (begin, 0)
            # A state that goes on is the one behind the piece's last token, short mini-batch or not.
            assert not piece.last or row[-1] >= 0
            taken += tokens
        whole = one.length // size * size
        filling = (places[:, :whole] < 0).sum().item()
        short = len(one.pieces) * size
        assert (filling - short) * places_to_one <= places.numel()
    assert sorted(taken) == list(range(len(starts) * length))


@given(chunks())
def test_what_goes_on_is_scanned_first_and_what_came_in_last(chunk):
    starts, length, size = chunk
    stacks = stack(list(cut(starts, length)), size, 1, LIMITS["cuda"])
    ends = [any(p.last for p in one.pieces) for one in stacks]
    begins = [
        any(p.first for p in one.pieces) and not e for one, e in zip(stacks, ends, strict=True)
    ]
    assert ends == sorted(ends, reverse=True)
    assert begins == sorted(begins)


@given(chunks())
def test_apart_and_together_are_inverse_forwards_and_backwards(chunk):
    starts, length, size = chunk
    packing = Packing(starts, length, size, 1, CPU)
    x = torch.randn(len(starts), length, 2, dtype=torch.float64, requires_grad=True)
    parts = packing.apart(x, nothing=True)
    for one, part in zip(packing.stacks, parts, strict=True):
        assert part.shape == (len(one.pieces), one.length, 2)
        assert torch.equal((part == 0).all(-1), one.places(length) < 0)
    assert torch.equal(packing.together(parts), x)
    # Whatever filling holds, it reaches no result and receives nothing.
    weights = torch.randn_like(x)
    noisy = [
        p + (one.places(length) < 0)[..., None]
        for one, p in zip(packing.stacks, parts, strict=True)
    ]
    (grad,) = torch.autograd.grad((packing.together(noisy) * weights).sum(), x)
    assert torch.equal(grad, weights)


def test_a_cpu_takes_only_as_many_as_its_cache_holds():
    starts, room_bytes = (tuple(range(0, 64, 4)),), int(LIMITS["cpu"].states_bytes)
    lengths = [len(s.pieces) for s in Packing(starts, 64, 4, room_bytes // 3, CPU).stacks]
    assert sorted(lengths) == [1, 3, 3, 3, 3, 3]
    assert len(Packing(starts, 64, 4, 2 * room_bytes, CPU).stacks) == 16


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_layer_equals_itself_on_each_document_alone(kind):
    """Two rows, starts in one and in both, lengths that need filling, a short last mini-batch."""
    layer, length = small_layer(kind), 16 * 13 + 5
    starts = ((0, 48, 64, 128, 192), (64, 80))
    x = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def grads_of(loss):
        return torch.autograd.grad(loss, [whole, *layer.parameters()])

    whole = x.requires_grad_()
    ours = layer(whole, Chunk(starts), NO_NEIGHBOURS)
    alone = torch.zeros_like(ours)
    for piece in cut(starts, length):
        row = slice(piece.row, piece.row + 1), slice(piece.begin, piece.end)
        alone[row] = layer(whole[row], Chunk(), NO_NEIGHBOURS)
    assert torch.allclose(ours, alone, rtol=1e-12, atol=1e-12)
    pairs = zip(grads_of(ours.square().sum()), grads_of(alone.square().sum()), strict=True)
    for mine, theirs in pairs:
        assert (mine - theirs).norm() <= 1e-11 * theirs.norm()


def test_documents_are_scanned_together(monkeypatch):
    """Eight equal documents: one scan of eight rows, not eight scans."""
    shapes, scan = [], ttt_layer.ttt_scan

    def watched(kind, q, *args, **kwargs):
        shapes.append(tuple(q.shape[::2]))
        return scan(kind, q, *args, **kwargs)

    monkeypatch.setattr(ttt_layer, "ttt_scan", watched)
    small_layer("linear")(
        torch.zeros(1, 256, 32).double(), Chunk((tuple(range(0, 256, 32)),)), NO_NEIGHBOURS
    )
    assert shapes == [(8, 32)]


class Between(OpenEdge):
    """A chunk with neighbours: what goes over its edges is written down."""

    state_awaited = grad_awaited = True

    def __init__(self, state, grad):
        self.state, self.grad, self.sent, self.returned, self.asked = state, grad, [], [], 0
        self.forward = []

    def receive(self):
        self.forward.append("receive")
        return self.state

    def send(self, part):
        self.forward.append("send")
        self.sent.append(part)

    def receive_grad(self):
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
def test_states_and_gradients_cross_the_edges_once_and_by_row(starts):
    """Each row as if it were alone, whatever the others do."""
    layer = small_layer("linear")
    initial = layer._initial_state()
    state, grad = random_like(initial, 1, 2), random_like(initial, 2, 2)
    x = torch.randn(2, 101, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def run(rows):
        part = slice(rows[0], rows[-1] + 1)
        edge = Between(tuple(s[part] for s in state), tuple(g[part] for g in grad))
        y = layer(x[part], Chunk(tuple(starts[r] for r in rows)), {**NO_NEIGHBOURS, "state": edge})
        layer.zero_grad()
        y.square().sum().backward()
        assert (len(edge.sent), edge.asked, len(edge.returned)) == (1, 1, 1)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in layer.parameters()]
        return [y, *edge.sent[0], *edge.returned[0]], grads

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
        ((), ["receive", "send"]),
        ((0,), ["send", "receive"]),
        ((16,), ["send", "receive"]),
        ((0, 16), ["send", "receive"]),
    ],
)
def test_a_document_that_begins_in_the_chunk_does_not_wait_for_the_left(starts, order):
    layer = small_layer("linear")
    initial = layer._initial_state()
    edge = Between(random_like(initial, 1, 1), random_like(initial, 2, 1))
    x = torch.randn(1, 101, 32, dtype=torch.float64)
    layer(x, Chunk((starts,)), {**NO_NEIGHBOURS, "state": edge})
    assert edge.forward == order


@pytest.mark.parametrize("starts", [(), (0,), (16, 32, 80)])
def test_nothing_outlives_its_graph(starts, monkeypatch):
    """What joins scans and edges is freed with the graph, and holds no state when all is sent."""
    made, make = [], Crossing.__init__

    def recorded(self, *args):
        make(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Crossing, "__init__", recorded)
    layer = small_layer("linear")
    initial = layer._initial_state()
    edge = Between(random_like(initial, 1, 1), random_like(initial, 2, 1))
    x = torch.randn(1, 101, 32, dtype=torch.float64, requires_grad=True)
    y = layer(x, Chunk((starts,)), {**NO_NEIGHBOURS, "state": edge})
    crossing = made[0]()
    assert crossing is not None
    assert crossing._received is None
    assert not crossing._leaving
    y.sum().backward()
    assert crossing._grad is None
    assert not crossing._returning
    del crossing, y
    edge.sent.clear()
    gc.collect()
    assert made[0]() is None
