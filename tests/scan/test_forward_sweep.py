"""A split reading's state is one rank's, bit for bit, from the beginning of a text or from a state."""

import pytest
import torch

from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.comm.threads import ThreadWorld
from tttscale.model import decoder as module
from tttscale.model import mixer
from tttscale.model.decoder import Decoder
from tttscale.scan.forward_sweep import ForwardSweep
from tttscale.scan.layout import Layout

CHUNK = 8
IDS = torch.randint(0, 23, (2, 56), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_TOKENS", CHUNK)


def by_decoder(model, ids, state=None):
    decoder = Decoder(model, state, rows=len(ids))
    decoder.read(ids)
    return decoder.state


def split(build, ids, ranks, state=None):
    """The layers' carries on the owner of the last chunk, and what each rank was told."""
    begin = 0 if state is None else state.positions[0]
    layout = Layout("striped", ids.shape[1], CHUNK, ranks)

    def work(transport):
        model, told = build(), []
        sweep = ForwardSweep(model, layout, transport, batch=len(ids), begin_tokens=begin)
        before = [] if state is None else state.layers
        assert sweep.after()[0]["state"].shapes[0][0] == len(ids)
        return sweep.run(ids, before, told.append), sweep.last_owner, told

    results = ThreadWorld(ranks).run(work)
    owners = [rank for rank, (layers, _, _) in enumerate(results) if layers is not None]
    assert owners == [results[0][1]]
    assert sorted(t for *_, told in results for t in told) == list(
        range(CHUNK, ids.shape[1] + 1, CHUNK)
    )
    return results[owners[0]][0]


def assert_same(layers, state):
    for found, wanted in zip(layers, state.layers, strict=True):
        assert found.keys() == wanted.keys()
        for name, part in wanted.items():
            assert all(torch.equal(a, b) for a, b in zip(found[name], part, strict=True)), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_bits_of_one_rank(kind, backbone, dtype):
    def build():
        return tiny_model(tiny_config(kind, backbone), torch.float32).to(dtype)

    wanted = by_decoder(build(), IDS)
    for ranks in (1, 2, 3):
        layers = split(build, IDS, ranks)
        assert_same(layers, wanted)
        wide = torch.promote_types(dtype, torch.float32)
        assert {t.dtype for layer in layers for part in layer.values() for t in part} == {wide}


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_from_a_state(kind):
    def build():
        return tiny_model(tiny_config(kind))

    before = by_decoder(build(), IDS[:, :16])
    kept = before.copy()
    wanted = by_decoder(build(), IDS)
    for ranks in (1, 2, 4):
        assert_same(split(build, IDS[:, 16:], ranks, before), wanted)
    assert_same(kept.layers, before)


def test_a_layer_of_ones_own():
    mixer("swept-delta")(GatedDelta)

    def build():
        return tiny_model(tiny_config("linear", pattern=["ttt-linear", "swept-delta"]))

    assert_same(split(build, IDS, 3), by_decoder(build(), IDS))


def test_no_graph_is_kept():
    layers = split(lambda: tiny_model(tiny_config()), IDS, 2)
    assert not any(t.requires_grad for layer in layers for part in layer.values() for t in part)
    assert torch.is_grad_enabled()
