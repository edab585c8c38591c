"""Layers that look at one token at a time, against their formulas in fp64."""

from types import SimpleNamespace

import torch
from torch import nn

from tttscale.model import layers
from tttscale.model.layers import Layer, RMSNorm, Rotary, SwiGLU, compile_operators


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_norm_and_the_stream_that_passes_through_it():
    norm = RMSNorm(6, eps=1e-3).double()
    with torch.no_grad():
        norm.weight.copy_(normal(6, seed=1))
    x, y = normal(2, 3, 6, seed=2), normal(2, 3, 6, seed=3)
    for given, stream in (((x,), x), ((x, y), x + y)):
        out, normed = norm(*given)
        assert torch.equal(out, stream)
        rms = (stream.square().mean(-1, keepdim=True) + 1e-3).sqrt()
        torch.testing.assert_close(normed, norm.weight * (stream / rms), rtol=1e-12, atol=1e-12)


def test_the_norm_of_a_stream_and_a_sum_have_one_gradient():
    norm = RMSNorm(6, eps=1e-6).double()
    x, y = normal(1, 2, 6).requires_grad_(), normal(1, 2, 6, seed=1).requires_grad_()
    out, normed = norm(x, y)
    (out.square().sum() + normed.pow(3).sum()).backward()
    both = (x.detach() + y.detach()).requires_grad_()
    out, normed = norm(both)
    (out.square().sum() + normed.pow(3).sum()).backward()
    for leaf in (x, y):
        torch.testing.assert_close(leaf.grad, both.grad, rtol=1e-12, atol=1e-12)


def test_swiglu():
    layer, x = SwiGLU(4, 10).double(), normal(2, 3, 4)
    gate, up = x @ layer.gate_proj.weight.T, x @ layer.up_proj.weight.T
    expected = (gate * torch.sigmoid(gate) * up) @ layer.down_proj.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_rotary_turns_pairs_by_their_position_in_the_mini_batch():
    rotary, x = Rotary(4, mini_batch_size=3, theta=100.0), normal(1, 3, 4)
    cos, sin = rotary.tables(x)
    pairs = torch.view_as_complex(x.unflatten(-1, (2, 2)))
    angles = torch.arange(3.0).double()[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    swapped = x.unflatten(-1, (2, 2)).flip(-1).flatten(-2)
    torch.testing.assert_close(x * cos + swapped * sin, turned, rtol=1e-12, atol=1e-12)


def test_rotary_tables_are_made_once_for_a_dtype_and_in_fp32_for_bf16():
    rotary = Rotary(4, 3, 100.0)
    cos, _ = rotary.tables(torch.zeros(1, dtype=torch.bfloat16))
    assert cos.dtype == torch.float32
    assert rotary.tables(torch.ones(5))[0] is cos
    assert rotary.tables(torch.zeros(1, dtype=torch.float64))[0] is not cos


def test_compiling_is_for_our_layers_in_a_model_and_for_no_other_model(monkeypatch):
    made = []
    monkeypatch.setattr(layers, "EAGER", SimpleNamespace(compiled=lambda: made.append(1) or made))
    model = nn.Sequential(RMSNorm(2, 1e-6), nn.Sequential(SwiGLU(2, 2)), nn.Linear(2, 2))
    eager = Layer.operators
    compile_operators(model)
    found = [m.operators for m in model.modules() if isinstance(m, Layer)]
    assert len(found) == 2
    assert found[0] is found[1] is made  # compiled once for all
    assert made == [1]
    assert RMSNorm(2, 1e-6).operators is eager


def test_rotary_tables_are_made_on_the_cpu_wherever_the_model_is():
    with torch.device("meta"):
        there = Rotary(8, 4, 10000.0)
    here = Rotary(8, 4, 10000.0)
    assert torch.equal(there.cos, here.cos)
    assert torch.equal(there.sin, here.sin)
