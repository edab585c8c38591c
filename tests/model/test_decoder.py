"""Reading tokens in any pieces is one forward over all of them, and greedy generation the official one's."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from tests.mixers.gated_delta import GatedDelta
from tests.model.test_golden import CASES, GOLDEN, build
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import MixerError
from tttscale.model import decoder as module
from tttscale.model import mixer
from tttscale.model.decode_state import OPEN
from tttscale.model.decoder import Decoder

PROMPTS = [1, 15, 16, 17, 75, 80]
CUTS = [[40], [1] * 40, [8, 8, 24], [5, 3, 30, 2], [3, 37]]
IDS = torch.randint(0, 23, (3, 40), generator=torch.Generator().manual_seed(6))


def pieces(model, cuts, ids=IDS):
    decoder = Decoder(model, rows=len(ids))
    return torch.cat([decoder.read_all(piece) for piece in ids.split(cuts, dim=1)], dim=1)


@pytest.mark.parametrize("case", CASES)
def test_greedy_generation_is_the_official_one(case):
    model, g = build(case), load_file(GOLDEN / "generate" / f"{case}.safetensors")
    for prompt in PROMPTS:
        decoder, found = Decoder(model), []
        logits = decoder.read(g[f"prompt_{prompt}"][None])
        for step in range(40):
            assert (logits[0] - g[f"logits_{prompt}"][step]).abs().max() <= 2.5e-6
            found.append(int(logits.argmax()))
            logits = decoder.read(torch.tensor([found[-1:]]))
        assert found == g[f"tokens_{prompt}"].tolist()


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_any_pieces_are_one_forward(kind, backbone, cuts):
    model = tiny_model(tiny_config(kind, backbone))
    assert (pieces(model, cuts) - model(IDS).logits).abs().max() < 1e-12


@pytest.mark.parametrize(
    "changes",
    [
        {"mini_batch_size": 1},
        {"mini_batch_size": 16},
        {"tie_word_embeddings": False},
        {"share_qk": True},
        {"use_gate": True},
        {"pre_conv": True, "conv_kernel": 2},
    ],
    ids=str,
)
def test_other_shapes(changes):
    model = tiny_model(tiny_config("mlp", "transformer", **changes))
    whole = model(IDS).logits
    for cuts in ([7, 1, 32], [16, 20, 4]):
        assert (pieces(model, cuts) - whole).abs().max() < 1e-12


def test_a_long_prompt_is_read_chunk_by_chunk(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_TOKENS", 10)
    model, told = tiny_model(tiny_config("linear")), []
    decoder = Decoder(model, rows=3)
    logits = decoder.read(IDS[:, :30], told.append)
    assert told == [8, 16, 24, 28, 29, 30]
    assert (logits - model(IDS[:, :30]).logits[:, -1]).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_narrow_parameters(kind, backbone, dtype):
    narrow = tiny_model(tiny_config(kind, backbone, hidden_size=32), torch.float32).to(dtype)
    exact = copy.deepcopy(narrow).double()(IDS).logits
    decoder = Decoder(narrow, rows=3)
    found = torch.cat([decoder.read_all(piece) for piece in IDS.split([9, 31], dim=1)], dim=1)
    assert found.dtype == torch.float32
    for tensors in (part for layer in decoder.state.layers for part in layer.values()):
        assert {t.dtype for t in tensors} == {torch.float32}
    limit = 8 * torch.finfo(dtype).eps
    assert (found - exact).norm() / exact.norm() < limit
    assert (narrow(IDS).logits - exact).norm() / exact.norm() < limit


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_without_a_graph_the_bits_are_the_same(kind):
    model = tiny_model(tiny_config(kind), torch.float32)
    with_graph = model(IDS).logits
    assert with_graph.requires_grad
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, with_graph.detach())
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(IDS).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(IDS).logits.detach(), cast)


class Pairs(GatedDelta):
    """A layer whose chunks end at even positions only."""

    @classmethod
    def alignment(cls, config, options):
        return 2


@pytest.mark.parametrize("layer", [GatedDelta, Pairs])
def test_layers_of_others_by_their_forward(layer):
    name = mixer(f"decoded-{layer.__name__}")(layer) and f"decoded-{layer.__name__}"
    model = tiny_model(tiny_config("linear", pattern=[name, "ttt-linear"]))
    whole = model(IDS).logits
    for cuts in CUTS:
        assert (pieces(model, cuts) - whole).abs().max() < 1e-12
    decoder = Decoder(model, rows=3)
    decoder.read(IDS[:, :5])
    kept = decoder.state
    assert (OPEN in kept.layers[0]) == (layer is Pairs)
    kept.positions[1] = 6
    with pytest.raises(MixerError, match=r"stand at different positions, \[5, 6, 5\].*row by row"):
        decoder.read(IDS[:, :1])
    assert decoder.state is kept


def test_a_call_that_fails_leaves_the_state_as_it_was(monkeypatch):
    model = tiny_model(tiny_config("linear"))
    decoder = Decoder(model, rows=3)
    decoder.read(IDS[:, :6])
    kept = decoder.state.copy()
    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[1].mlp, "forward", lambda x: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decoder.read(IDS[:, 6:9])
    logits = decoder.read(IDS[:, 6:9])
    assert kept.positions == [6, 6, 6]
    assert (logits - model(IDS[:, :9]).logits[:, -1]).abs().max() < 1e-12
