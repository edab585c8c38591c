"""Padding anywhere in a row: no number of the row is another than without it."""

import pytest
import torch

from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import ConfigError, MixerError
from tttscale.model import mixer
from tttscale.model.decode_state import DecodeState
from tttscale.model.decoder import Decoder
from tttscale.model.padded import labels_of_padded, read_padded, whole_padded

IDS = torch.randint(0, 23, (4, 21), generator=torch.Generator().manual_seed(3))
MASKS = {
    "left": ["000000111111111111111", "111111111111111111111", "000000000000000000011"],
    "right": ["111111111111111000000", "111111111111111111111", "110000000000000000000"],
    "inside": ["110011111110000111111", "010101010101010101010", "111111111111111111110"],
}


@pytest.fixture(scope="module", params=["linear", "mlp"])
def model(request):
    return tiny_model(tiny_config(request.param))


def real_of(rows):
    return torch.tensor([[place == "1" for place in row] for row in [*rows, rows[0]]])


def alone(model, real, read):
    """Logits of each row without padding, put where its tokens are; zeros before the first."""
    rows = []
    for ids, own in zip(IDS, real, strict=True):
        logits = read(ids[own][None])[0]
        zero = torch.zeros_like(logits[0])
        counts = own.cumsum(0).tolist()
        rows.append(torch.stack([logits[n - 1] if n else zero for n in counts]))
    return torch.stack(rows)


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_rows_are_those_without_padding(model, rows):
    real = real_of(rows)
    wanted = alone(model, real, lambda ids: Decoder(model).read_all(ids))
    logits, state = read_padded(model, IDS, real)
    assert (logits - wanted).abs().max() < 1e-12
    # Rows whose length no other has are read alone, and not one bit differs.
    assert torch.equal(logits[1:3], wanted[1:3])
    assert state.positions == real.sum(1).tolist()
    last, same = read_padded(model, IDS, real, last_only=True)
    assert (last - wanted[:, -1:]).abs().max() < 1e-12
    after = Decoder(model, same).read(IDS[:, :1])
    for row, own in enumerate(real):
        whole = torch.cat([IDS[row][own], IDS[row, :1]])[None]
        assert (after[row] - model(whole).logits[0, -1]).abs().max() < 1e-12


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_whole_sequences_with_a_graph(model, rows):
    real = real_of(rows)
    logits = whole_padded(model, IDS, real)
    assert (logits - alone(model, real, lambda ids: model(ids).logits)).abs().max() < 1e-12
    labels = labels_of_padded(IDS, real)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    lines = [ids[own][None] for ids, own in zip(IDS, real, strict=True)]
    wanted = sum(model(line, line).loss * (line.shape[1] - 1) for line in lines)
    assert (loss - wanted).abs() < 1e-11
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(x, parameters) for x in (loss, wanted))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-11 * max(1.0, float(b.abs().max()))


def test_calls_continue_each_other(model):
    real = real_of(MASKS["left"])
    whole, _ = read_padded(model, IDS, real)
    more = torch.flip(IDS, [1])[:, :9]
    gaps = torch.rand(more.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    gaps[:, 0] = True
    first, state = read_padded(model, IDS, real)
    kept = state.copy()
    second, after = read_padded(model, more, gaps, state)
    both = torch.cat([IDS, more], 1), torch.cat([real, gaps], 1)
    assert (torch.cat([first, second], 1) - read_padded(model, *both)[0]).abs().max() < 1e-12
    assert torch.equal(first, whole)
    assert after.positions == both[1].sum(1).tolist()
    assert state.positions == kept.positions
    for a, b in zip(state.layers, kept.layers, strict=True):
        assert all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))


def test_without_padding_it_is_the_decoder(model):
    decoder = Decoder(model, rows=4)
    wanted = decoder.read_all(IDS)
    logits, state = read_padded(model, IDS)
    assert torch.equal(logits, wanted)
    assert isinstance(state, DecodeState)
    same = read_padded(model, IDS, torch.ones_like(IDS, dtype=torch.bool))[0]
    assert torch.equal(same, wanted)
    assert torch.equal(
        whole_padded(model, IDS, torch.ones_like(IDS, dtype=torch.bool)), model(IDS).logits
    )


def test_long_continuations_at_different_positions_are_read_in_chunks(model, monkeypatch):
    _, state = read_padded(model, IDS[:, :5], real_of(["00011", "11111", "00001"]))
    seen = []
    through = Decoder._chunk_through
    monkeypatch.setattr(
        Decoder, "_chunk_through", lambda self, ids: seen.append(ids.shape) or through(self, ids)
    )
    read_padded(model, IDS, None, state)
    assert seen
    seen.clear()
    read_padded(model, IDS[:, :3], None, state)  # fewer than a mini-batch: all rows together
    assert not seen


def test_padding_may_be_any_number(model):
    """Such as the id of a pad token that the embedding was not enlarged for, or -100."""
    for rows in MASKS.values():
        real = real_of(rows)
        for number in (-100, model.config.vocab_size):
            ids = IDS.masked_fill(~real, number)
            for run in (whole_padded, lambda *given: read_padded(*given)[0]):
                assert torch.equal(run(model, ids, real), run(model, IDS, real))


def test_a_row_without_a_token(model):
    real = real_of(["111", "000", "011"])
    for run in (read_padded, whole_padded):
        with pytest.raises(ConfigError, match="row 1 of 4 has no token: its attention_mask is 0"):
            run(model, IDS[:, :3], real)


def test_layers_of_others():
    name = "padded-delta"
    mixer(name)(GatedDelta)
    model = tiny_model(tiny_config("linear", pattern=[name, "ttt-linear"]))
    real = real_of(MASKS["left"])
    logits = whole_padded(model, IDS, real)
    assert (logits - alone(model, real, lambda ids: model(ids).logits)).abs().max() < 1e-12
    logits, state = read_padded(model, IDS, real)
    assert (logits - alone(model, real, lambda ids: model(ids).logits)).abs().max() < 1e-12
    with pytest.raises(MixerError, match="stand at different positions"):
        read_padded(model, IDS[:, :1], None, state)
