"""A long text is read by all ranks of a job to the state of one process; a short one by the first alone."""

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.trained import byte_model
from tttscale.comm import mesh as meshes
from tttscale.generate.split_reading import SplitReader
from tttscale.model import decoder as module
from tttscale.model.decoder import Decoder

IDS = torch.randint(0, 259, (1, 75), generator=torch.Generator().manual_seed(2))


def facts(decoder, logits):
    layers = [
        {name: [t.tolist() for t in part] for name, part in layer.items()}
        for layer in decoder.state.layers
    ]
    return decoder.state.positions, layers, logits.tolist()


def model_of(kind, dtype):
    module.CHUNK_TOKENS = 8
    return byte_model(kind).to(getattr(torch, dtype))


def read(ranks, kind, dtype, before, tokens):
    """The state after `before` tokens by rank 0 alone, and `tokens` more by all ranks."""
    model, told = model_of(kind, dtype), []
    mesh = meshes.start(ranks, ranks.world_size, torch.device("cpu"))
    reader = SplitReader(model, mesh)
    if ranks.rank:
        reader.help()
        return None
    decoder = Decoder(model)
    if before:
        decoder.read(IDS[:, :before])
    logits = reader.read(decoder, IDS[:, before : before + tokens], told.append)
    return *facts(decoder, logits), told


def alone(kind, dtype, before, tokens):
    decoder = Decoder(model_of(kind, dtype))
    if before:
        decoder.read(IDS[:, :before])
    first = -before % decoder.unit  # where a chunk may begin
    if first:
        decoder.read(IDS[:, before : before + first])
    return facts(decoder, decoder.read(IDS[:, before + first : before + tokens]))


@pytest.fixture(autouse=True)
def _chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_TOKENS", 8)


@pytest.mark.parametrize(
    ("kind", "dtype", "ranks", "before", "tokens"),
    [
        ("linear", "float32", 2, 0, 75),
        ("mlp", "float64", 3, 0, 64),  # 7 chunks, and one for rank 0
        ("linear", "float64", 3, 6, 60),  # from the middle of a mini-batch
        ("mlp", "float32", 2, 8, 33),
        ("linear", "bfloat16", 2, 0, 41),
        ("linear", "float32", 4, 0, 25),  # fewer chunks than ranks
        ("linear", "float32", 2, 0, 16),  # one whole chunk: not split
        ("linear", "float32", 2, 3, 5),
    ],
)
def test_the_bits_of_one_process(kind, dtype, ranks, before, tokens):
    first, *others = values(run_ranks(read, ranks, kind, dtype, before, tokens))
    *found, told = first
    assert found == list(alone(kind, dtype, before, tokens))
    assert others == [None] * (ranks - 1)
    assert told == sorted(told)
    assert told[-1] == tokens


def cancelled(ranks):
    reader = SplitReader(byte_model(), meshes.start(ranks, ranks.world_size, torch.device("cpu")))
    if ranks.rank:
        return reader.help()
    reader.cancel()
    reader.cancel()
    decoder = Decoder(byte_model())
    reader.read(decoder, IDS, lambda done: None)  # alone from now on
    return decoder.state.positions


def test_a_mistake_of_the_first_rank_releases_the_others():
    assert values(run_ranks(cancelled, 2)) == [[75], None]
