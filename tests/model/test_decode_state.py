"""What a model keeps of the tokens that it has read: copied, chosen by row, joined, never shared."""

import pytest
import torch

from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import MixerError
from tttscale.model.decode_state import OPEN, SUMS, DecodeState, HeldPort, HeldPorts
from tttscale.model.decoder import Decoder

IDS = torch.randint(0, 23, (3, 40), generator=torch.Generator().manual_seed(5))


def tensors(state):
    return [t for layer in state.layers for part in layer.values() for t in part]


def same(one, other):
    return one.positions == other.positions and all(
        torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True)
    )


@pytest.fixture(scope="module", params=["linear", "mlp"])
def model(request):
    return tiny_model(tiny_config(request.param))


def read(model, ids, state=None):
    decoder = Decoder(model, state, rows=len(ids))
    return decoder.read(ids), decoder.state


@pytest.mark.parametrize("length", [3, 4, 6, 9])
def test_a_state_is_as_it_was_after_others_have_read_on_from_it(model, length):
    _, state = read(model, IDS[:, :length])
    parameters = [p.detach().clone() for p in model.parameters()]
    kept = state.copy()
    first, _ = read(model, IDS[:, length:20], state)
    again, _ = read(model, IDS[:, length:20], state)
    assert torch.equal(first, again)
    assert same(state, kept)
    assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))


def test_a_copy_shares_no_memory(model):
    _, state = read(model, IDS[:, :6])
    kept = state.copy()
    owners = {t.untyped_storage().data_ptr() for t in tensors(state)}
    for other in (kept, state.rows([0, 1, 2]), DecodeState.joined([state])):
        assert not owners & {t.untyped_storage().data_ptr() for t in tensors(other)}
    for tensor in tensors(kept):
        tensor.zero_()
    kept.positions[0] = 99
    assert state.positions == [6, 6, 6]
    assert any(t.any() for t in tensors(state))


def test_the_first_state_is_no_view_of_the_parameters(model):
    _, state = read(model, IDS[:, :1])
    owners = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert not owners & {t.untyped_storage().data_ptr() for t in tensors(state)}


def test_rows_are_reordered_and_repeated_as_beams_need_it(model):
    _, state = read(model, IDS[:, :6])
    order = [2, 0, 2]
    wanted, _ = read(model, IDS[order, :12])
    found, _ = read(model, IDS[order, 6:12], state.rows(order))
    assert (found - wanted).abs().max() < 1e-12


def test_prompts_of_unequal_lengths_are_read_alone_and_continued_together(model):
    lengths = [5, 16, 11]  # of mini-batches of 4: open, closed, open
    states = [read(model, IDS[i : i + 1, :n])[1] for i, n in enumerate(lengths)]
    after = torch.stack([IDS[i, n : n + 13] for i, n in enumerate(lengths)])
    joined = DecodeState.joined(states)
    assert joined.positions == lengths
    logits, together = read(model, after, joined)
    for i, n in enumerate(lengths):
        whole = model(IDS[i : i + 1, : n + 13]).logits[:, -1]
        assert (logits[i] - whole[0]).abs().max() < 1e-12
        alone = read(model, after[i : i + 1], states[i])[1]
        for a, b in zip(alone.layers, together.rows([i]).layers, strict=True):
            assert all(
                (x - y).abs().max() < 1e-12 for x, y in zip(a["state"], b["state"], strict=True)
            )


def test_what_cannot_stand_side_by_side_is_refused():
    one, two = (DecodeState([n], [{OPEN: (torch.zeros(1, n, 4),)}]) for n in (1, 2))
    with pytest.raises(MixerError, match=r"layer 0: rows at different positions .* one length"):
        DecodeState.joined([one, two])


def test_sums_are_kept_only_of_an_open_mini_batch(model):
    _, opened = read(model, IDS[:, :6])
    _, closed = read(model, IDS[:, :8])
    assert all(SUMS in layer for layer in opened.layers)
    assert not any(SUMS in layer for layer in closed.layers)
    declared = [part for block in model.carry_layers for part in block.carry(3, 8).values()]
    shapes = sorted(shape for part in declared for shape in part.shapes)
    assert sorted(tuple(t.shape) for t in tensors(closed)) == shapes
    assert closed.nbytes == sum(8 * torch.Size(shape).numel() for shape in shapes)
    _, long = read(model, IDS.repeat(1, 5))
    assert long.nbytes == closed.nbytes


def test_ports_hold_what_the_call_before_has_left():
    ports = HeldPorts({"state": (torch.ones(1),)})
    assert torch.equal(ports["state"].recv_state()[0], torch.ones(1))
    assert ports["tail"].recv_state() is None
    ports["tail"].send_state((torch.zeros(2, requires_grad=True),))
    assert list(ports.sent()) == ["tail"]
    assert not ports.sent()["tail"][0].requires_grad
    port = HeldPort(None)
    port.send_grad((torch.zeros(1),))
    assert port.recv_grad() is None
