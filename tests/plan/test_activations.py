"""Bytes of a chunk's graph: the closed forms against what autograd saves in real models."""

import pytest
import torch

from tests.plan.test_flops import CONFIGS, Undecided, Windowed
from tests.scan.helpers import tiny_config
from tttscale.kernels.learners import LEARNERS
from tttscale.model import TTTForCausalLM
from tttscale.model.registry import names_of
from tttscale.plan.activations import (
    Shape,
    _triton_scan,
    block_bytes,
    head_bytes,
    transient_bytes,
)
from tttscale.scan.keep_policy import SavedBytes


def saved_bytes(config, rows, tokens, autocast):
    model = TTTForCausalLM(config)
    ids = torch.randint(0, config.vocab_size, (rows, tokens))
    with SavedBytes(model.parameters()) as saved, torch.autocast("cpu", torch.bfloat16, autocast):
        x = model.embed(ids)
        for block in model.blocks:
            x = block(x)
        model.head(x, ids)
    return saved.total


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 256), (2, 150)])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model(name, rows, tokens, autocast):
    config, shape = CONFIGS[name], Shape(rows, tokens, 2 if autocast else 4)
    blocks = [block_bytes(config, layer, shape) for layer in names_of(config)]
    assert saved_bytes(config, rows, tokens, autocast) == sum(blocks) + head_bytes(config, shape)


@pytest.mark.parametrize("tokens", [33, 300])
def test_a_layer_of_ones_own_is_counted_without_numbers(tokens):
    assert Windowed
    config = tiny_config(pattern=("windowed", "ttt-linear"), hidden_size=8)
    shape = Shape(1, tokens, 4)
    blocks = [block_bytes(config, layer, shape) for layer in names_of(config)]
    assert saved_bytes(config, 1, tokens, False) == sum(blocks) + head_bytes(config, shape)


def test_a_layer_that_looks_at_its_numbers_is_unknown():
    assert Undecided
    config = tiny_config(pattern=("undecided",))
    assert "cannot be measured" in block_bytes(config, "undecided", Shape(1, 64, 4))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_tritons_scan_keeps(kind, dtype, monkeypatch):
    """Shapes and dtypes of what its phases save, without a kernel run."""
    from tttscale.kernels.triton_scan.linear.segment import LinearSegment
    from tttscale.kernels.triton_scan.mlp.segment import MLPSegment

    heads, tokens, dim, size = 2, 150, 64, 16
    segment_type = {"linear": LinearSegment, "mlp": MLPSegment}[kind]
    monkeypatch.setattr(segment_type, "run", lambda *_, **__: None)
    q = torch.zeros(1, heads, tokens, dim, dtype=dtype)
    rates, norm = torch.zeros(1, heads, tokens), torch.zeros(heads, dim)
    segment = segment_type([q, q, q, rates, torch.zeros(size), norm, norm], size, 90)
    state = [torch.zeros(s) for s in LEARNERS[kind].state_shapes(1, heads, dim)]
    kept, _ = segment.advance(state)
    config = tiny_config(
        kind, mini_batch_size=size, hidden_size=heads * dim, num_attention_heads=heads
    )
    shape = Shape(1, tokens, dtype.itemsize, triton=True)
    assert sum(x.nbytes for x in kept) == _triton_scan(config, kind, shape)


def test_transients_grow_with_the_chunk_and_are_less_if_compiled():
    config = tiny_config(hidden_size=64, intermediate_size=256)
    short, long = (transient_bytes(config, Shape(1, n, 4), ("linear",)) for n in (2048, 4096))
    assert short < long < 2.1 * short
    compiled = Shape(1, 4096, 4, triton=True, compiled=True)
    assert transient_bytes(config, compiled, ("linear",)) < long
