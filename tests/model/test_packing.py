"""Documents of a chunk side by side: every token in its place, and nothing waits that need not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.layers import small_layer
from tttscale.model import ttt_layer
from tttscale.model.chunk import Chunk
from tttscale.model.packing import LIMITS, Limits, Packing, cut, pack
from tttscale.model.ports import NULL_PORTS

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
def test_every_token_has_one_place_and_its_mini_batch(chunk, most_segments, tokens_to_one):
    starts, length, size = chunk
    scans = pack(
        list(cut(starts, length)), size, 10, Limits(tokens_to_one, 10 * most_segments, 100)
    )
    taken = []
    for one in scans:
        assert len(one.segments) <= most_segments
        index = one.token_index(length)
        for offset, segment, row in zip(one.offsets, one.segments, index, strict=True):
            tokens = row[row >= 0].tolist()
            begin = segment.row * length + segment.begin
            assert tokens == list(range(begin, segment.row * length + segment.end))
            assert (row[offset], offset % size) == (begin, 0)
            # The state that is sent is the one after the segment's last token, short mini-batch or not.
            assert not segment.last or row[-1] >= 0
            taken += tokens
        whole = one.length // size * size
        filler = (index[:, :whole] < 0).sum().item()
        short = len(one.segments) * size
        assert (filler - short) * tokens_to_one <= index.numel()
    assert sorted(taken) == list(range(len(starts) * length))


@given(chunks())
def test_a_state_to_send_is_scanned_first_and_one_received_last(chunk):
    starts, length, size = chunk
    scans = pack(list(cut(starts, length)), size, 1, LIMITS["cuda"])
    ends = [any(p.last for p in one.segments) for one in scans]
    begins = [
        any(p.first for p in one.segments) and not e for one, e in zip(scans, ends, strict=True)
    ]
    assert ends == sorted(ends, reverse=True)
    assert begins == sorted(begins)


@given(chunks())
def test_pack_and_unpack_are_inverse_forwards_and_backwards(chunk):
    starts, length, size = chunk
    packing = Packing(starts, length, size, 1, CPU)
    x = torch.randn(len(starts), length, 2, dtype=torch.float64, requires_grad=True)
    parts = packing.pack(x, zero_filler=True)
    for one, part in zip(packing.scans, parts, strict=True):
        assert part.shape == (len(one.segments), one.length, 2)
        assert torch.equal((part == 0).all(-1), one.token_index(length) < 0)
    assert torch.equal(packing.unpack(parts), x)
    # Whatever filler holds, it reaches no result and receives nothing.
    weights = torch.randn_like(x)
    noisy = [
        p + (one.token_index(length) < 0)[..., None]
        for one, p in zip(packing.scans, parts, strict=True)
    ]
    (grad,) = torch.autograd.grad((packing.unpack(noisy) * weights).sum(), x)
    assert torch.equal(grad, weights)


def test_a_cpu_takes_only_as_many_as_its_cache_holds():
    starts, room_bytes = (tuple(range(0, 64, 4)),), int(LIMITS["cpu"].states_bytes)
    lengths = [len(s.segments) for s in Packing(starts, 64, 4, room_bytes // 3, CPU).scans]
    assert sorted(lengths) == [1, 3, 3, 3, 3, 3]
    assert len(Packing(starts, 64, 4, 2 * room_bytes, CPU).scans) == 16


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_layer_equals_itself_on_each_document_alone(kind):
    """Two rows, starts in one and in both, lengths that need filler, a short last mini-batch."""
    layer, length = small_layer(kind), 16 * 13 + 5
    starts = ((0, 48, 64, 128, 192), (64, 80))
    x = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def grads_of(loss):
        return torch.autograd.grad(loss, [whole, *layer.parameters()])

    whole = x.requires_grad_()
    ours = layer(whole, Chunk(starts), NULL_PORTS)
    alone = torch.zeros_like(ours)
    for segment in cut(starts, length):
        row = slice(segment.row, segment.row + 1), slice(segment.begin, segment.end)
        alone[row] = layer(whole[row], Chunk(), NULL_PORTS)
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
        torch.zeros(1, 256, 32).double(), Chunk((tuple(range(0, 256, 32)),)), NULL_PORTS
    )
    assert shapes == [(8, 32)]
