"""What a token's activations take of memory until the backward, in bytes per token, layer and feature."""

import contextlib

import pytest
import torch

from tests.scan.helpers import K, random_tokens, sweep, tiny_config
from tttscale.kernels.ops.pointwise import EAGER
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.scan.keep_policy import ActivationPolicy, SavedBytes, split_kept
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Phase, Schedule

WIDTH, TOKENS = 256, 512
MAMBA = {"share_qk": True, "use_gate": True, "pre_conv": True}


def saved_of_a_layer(kind, backbone, dtype):
    """Bytes that one more block saves, per token and feature."""
    config = TTTConfig(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=WIDTH * 43 // 16, num_hidden_layers=2,
        num_attention_heads=WIDTH // 64, ttt_layer_type=kind, **backbone,
    )  # fmt: skip
    model, totals = TTTForCausalLM(config), []
    for layers in (1, 2):
        cast = torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with cast, SavedBytes(model.parameters()) as saved:
            x = model.embed(torch.zeros(1, TOKENS, dtype=torch.int64))
            for block in list(model.blocks)[:layers]:
                x = block(x)
        totals.append(saved.total)
    return (totals[1] - totals[0]) / TOKENS / WIDTH


@pytest.mark.parametrize(
    ("kind", "backbone", "dtype", "most"),
    [  # before the elementwise was formed again: 61.3, 97.5, 51.3, 132.4, 168.5
        ("linear", MAMBA, torch.bfloat16, 43),
        ("linear", MAMBA, torch.float32, 72),
        ("linear", {}, torch.bfloat16, 35),
        ("mlp", MAMBA, torch.bfloat16, 98),
        ("mlp", MAMBA, torch.float32, 127),
    ],
)
def test_no_more_than_this_is_saved(kind, backbone, dtype, most):
    assert saved_of_a_layer(kind, backbone, dtype) <= most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_formed_again_has_the_bits_of_the_forward(dtype):
    generator = torch.Generator().manual_seed(0)
    x, y, stream, part = (torch.randn(2, 9, 22, generator=generator) for _ in range(4))
    x, y = x.to(dtype), y.to(dtype)
    weight, bias = torch.randn(2, 22, generator=generator)
    cases = {
        "norm": (stream, weight, 1e-6, dtype),
        "add_norm": (stream + part, y, weight, 1e-6, dtype, stream, part),
        "swiglu": (x, y),
        "gated_norm": (x, y, weight, bias),
    }
    for name, arguments in cases.items():
        operator = getattr(EAGER, name)
        outputs, saved = operator.forward(*arguments)
        assert torch.equal(operator.again(saved, dtype), outputs[-1]), name


def test_products_keep_no_output_of_an_operator_that_can_form_it_again():
    x = torch.randn(1, 64, 32, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(16, 32))
    with SavedBytes([weight]) as saved:
        out = EAGER.linear(EAGER.swiglu(x, x), weight)
    assert saved.total == x.nbytes
    out.sum().backward()
    (again,) = torch.autograd.grad((EAGER.swiglu(x, x).clone() @ weight.t()).sum(), x)
    torch.testing.assert_close(x.grad, again)


def test_contiguous_ranks_know_a_chunk_once_they_know_all_its_layers():
    policy = ActivationPolicy("auto", lambda: 1000)
    for layer, saved_bytes in ((2, 100), (0, 50)):
        layers = range(layer, layer + 1)
        assert policy.wants_measure(layers)
        policy.measured(layers, saved_bytes, 3)
        assert not policy.wants_measure(layers)
        assert (policy.chunks, policy.chunk_bytes) == (1, None)
    policy.measured(range(1, 2), 50, 3)
    assert (policy.chunks, policy.chunk_bytes) == (1 + 1000 // 200, 200)
    assert not policy.wants_measure(range(0, 1))


PARTS = (("state",),) * 3


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize("layers", range(15))
def test_the_last_layers_that_run_are_kept(kind, layers):
    tasks = Schedule(Layout(kind, 40, 5, 2), PARTS).tasks(1, Phase.FORWARD)
    found, kept = split_kept(tasks, layers)
    places = [(t.sequence, t.chunk, layer) for t in found for layer in t.layers]
    assert places == [(t.sequence, t.chunk, layer) for t in tasks for layer in t.layers]
    assert sum(len(t.layers) for t in kept) == min(layers, 4 * 3)
    assert found[len(found) - len(kept) :] == tuple(t for t in found if t in kept)
    assert len(found) <= len(tasks) + 1


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_however_many_layers_are_kept_the_bits_are_the_same(kind, ranks):
    config, groups = tiny_config(layers=3), [[random_tokens(8 * K)]]
    results = [
        sweep(config, groups, ranks=ranks, chunk=2 * K, kind=kind, keep=keep)
        for keep in (0, 1, 1 / 3, 1.5, 2 + 2 / 3, 9)
    ]
    losses, grads = results[0]
    for other_losses, other_grads in results[1:]:
        assert torch.equal(other_losses.sums, losses.sums)
        for name, grad in grads.items():
            assert torch.equal(other_grads[name], grad), name


def test_auto_keeps_as_many_layers_as_fit():
    policy = ActivationPolicy("auto", lambda: 1000)
    policy.measured(range(4), 400, of_layers=4)
    assert policy.chunks == 1 + 10 / 4
