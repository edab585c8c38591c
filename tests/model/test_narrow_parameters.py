"""Models whose parameters are bf16 or fp16: results within the dtype's rounding, states and sums in fp32."""

import contextlib
import copy
import functools
import os
import shutil

import numpy as np
import pytest
import torch

from tests.scan.helpers import random_tokens, relative, tiny_config, tiny_model
from tttscale.kernels.ops.linear import embedded
from tttscale.kernels.scan import ttt_scan
from tttscale.model import ttt_layer
from tttscale.model.layers import compile_operators
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

HALVES = [torch.bfloat16, torch.float16]
SHAPES = {
    "mamba": {"backbone": "mamba"},
    "transformer": {"backbone": "transformer"},
    "gate": {"backbone": "transformer", "use_gate": True},
    "share_qk": {"backbone": "transformer", "share_qk": True},
    "pre_conv": {"backbone": "transformer", "pre_conv": True},
    "untied": {"backbone": "mamba", "tie_word_embeddings": False},
}
LENGTH, CHUNK = 45, 8
has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None


def shape(kind, name, **changes):
    return tiny_config(kind, hidden_size=32, **{**SHAPES[name], **changes})


def pair(config, dtype):
    """A model in dtype, and one in fp64 with the same rounded weights."""
    narrow = tiny_model(config, torch.float32).to(dtype)
    return narrow, copy.deepcopy(narrow).double()


def autocast(dtype):
    return torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext()


def compare(ours, exact, dtype):
    """Losses, logits and gradients; limits in the dtype's unit of rounding.

    A parameter's gradient may be a small rest of a sum of large ones, all of them together are not.
    """
    unit, names = torch.finfo(dtype).eps, ours["parameters"]
    for name, tensor in exact.items():
        limit = 64 if name in names else 3
        assert relative(ours[name].double(), tensor) < limit * unit, name
    together, theirs = (
        torch.cat([grads[name].double().flatten() for name in sorted(names)])
        for grads in (ours, exact)
    )
    assert relative(together, theirs) < 8 * unit


def whole(model, tokens, dtype=None):
    ids, labels = (torch.from_numpy(x)[None] for x in (tokens.ids, tokens.labels))
    with autocast(dtype):
        out = model(ids, labels)
    out.loss.backward()
    return results(model, logits=out.logits.detach(), loss=out.loss.detach())


def results(model, **others):
    grads = {n: p.grad for n, p in model.named_parameters()}
    assert all(g is not None and g.dtype == model.get_parameter(n).dtype for n, g in grads.items())
    return {**others, **grads, "parameters": set(grads)}


def chunked(model, tokens, dtype=None):
    sweeps = Sweeps(model, Layout("striped", LENGTH, CHUNK), autocast=dtype)
    sweeps.forward([[tokens]])
    return results(model, losses=sweeps.backward().sums)


def check(way, kind, name, dtype, cast=None, prepare=lambda model: None, **changes):
    narrow, exact = pair(shape(kind, name, **changes), dtype)
    prepare(narrow)
    tokens = random_tokens(LENGTH)
    wanted = way(exact, tokens)
    wanted.pop("parameters")
    widest = max(torch.finfo(d).eps for d in (dtype, cast) if d)
    coarsest = next(d for d in (dtype, cast) if d and torch.finfo(d).eps == widest)
    compare(way(narrow, tokens, cast), wanted, coarsest)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_results_are_those_of_wide_parameters_within_rounding(kind, name, dtype):
    check(whole, kind, name, dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_under_autocast(kind, dtype):
    check(whole, kind, "mamba", dtype, torch.bfloat16)


@pytest.mark.parametrize("cast", [None, torch.bfloat16])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("kind", "name"), [("linear", "mamba"), ("mlp", "transformer")])
def test_chunk_by_chunk(kind, name, dtype, cast):
    check(chunked, kind, name, dtype, cast)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_documents_begin_in_the_narrow_initial_state(kind, dtype):
    """Several stacks of documents, whose shared parameters' gradients are summed wide."""
    narrow, exact = pair(shape(kind, "mamba"), dtype)
    tokens = random_tokens(LENGTH)
    tokens.starts, tokens.padded = (0, 4, 16, 20, 24, 32), np.zeros(LENGTH, dtype=bool)
    wanted = chunked(exact, tokens)
    wanted.pop("parameters")
    compare(chunked(narrow, tokens), wanted, dtype)


@pytest.mark.skipif(not has_compiler, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["mamba", "transformer"])
def test_compiled_operators(name, dtype):
    check(whole, "linear", name, dtype, prepare=compile_operators)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_triton_scan(kind, dtype, monkeypatch):
    def scan(kind, q, *rest, **options):
        backend = "torch" if q.dtype == torch.float64 else "triton"
        return ttt_scan(kind, q, *rest, **options, backend=backend)

    monkeypatch.setattr(ttt_layer, "ttt_scan", scan)
    check(whole, kind, "mamba", dtype, mini_batch_size=16, num_hidden_layers=1)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_states_and_everything_learned_enter_the_scan_wide(kind, dtype, backend, monkeypatch):
    seen = []

    def scan(kind, q, k, v, *rest, **options):
        out, state = ttt_scan(kind, q, k, v, *rest, **options, backend=backend)
        lr, tau, weight, bias, first = rest
        seen.extend([lr, tau, weight, bias, *first, *state])
        assert out.dtype == dtype
        return out, state

    monkeypatch.setattr(ttt_layer, "ttt_scan", scan)
    model = tiny_model(shape(kind, "mamba", mini_batch_size=16), torch.float32).to(dtype)
    model(torch.from_numpy(random_tokens(40).ids)[None])
    assert len(seen) == 2 * (4 + 2 * (2 if kind == "linear" else 4))
    assert {x.dtype for x in seen} == {torch.float32}


@pytest.mark.parametrize("dtype", HALVES)
def test_the_residual_stream_is_wide(dtype):
    model, streams = tiny_model(shape("linear", "mamba"), torch.float32).to(dtype), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, out: streams.extend([inputs[0], out]))
    model(torch.from_numpy(random_tokens(12).ids)[None])
    assert {x.dtype for x in streams} == {torch.float32}


@pytest.mark.parametrize("dtype", HALVES)
def test_tokens_of_one_id_are_summed_before_they_are_rounded(dtype):
    """300 gradients of 1 and one of 2^-12 each: a narrow sum stops at 2^8 or loses the small ones."""
    weight = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
    ids = torch.ones(600, dtype=torch.int64)
    grad = torch.ones(600, 2)
    grad[300:] = 2**-12
    embedded(ids, weight).backward(grad)
    exact = torch.tensor(300 * (1 + 2**-12)).to(dtype)
    assert torch.equal(weight.grad[1], exact.expand(2))
    assert not weight.grad[[0, 2]].any()


def test_norms_may_stay_in_fp32():
    """As libraries leave them when they cast a model."""
    config = shape("linear", "mamba")
    narrow, exact = pair(config, torch.bfloat16)
    for name, module in narrow.named_modules():
        if name.endswith("norm"):
            module.float()
    tokens = random_tokens(LENGTH)
    wanted = whole(exact, tokens)
    wanted.pop("parameters")
    compare(whole(narrow, tokens), wanted, torch.bfloat16)
    assert (
        functools.reduce(torch.promote_types, {p.dtype for p in narrow.parameters()})
        == torch.float32
    )
