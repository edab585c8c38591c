"""Causality, lengths and the inner learning rate of whole models, in fp64."""

import itertools

import pytest
import torch

from tests.scan.helpers import K, tiny_config, tiny_model
from tttscale.model.ttt_layer import TTTLayer

FORMS = list(itertools.product(["linear", "mlp"], ["mamba", "transformer"]))


def ids(length, batch=2):
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 23, (batch, length), generator=generator)


@pytest.mark.parametrize(("kind", "backbone"), FORMS)
def test_a_token_changes_nothing_before_it(kind, backbone):
    model, tokens = tiny_model(tiny_config(kind, backbone)), ids(3 * K + 2)
    with torch.no_grad():
        logits = model(tokens).logits
        for t in range(tokens.shape[1]):
            changed = tokens.clone()
            changed[:, t] = (changed[:, t] + 1) % 23
            difference = (model(changed).logits - logits).abs().amax((0, 2))
            assert (difference[:t] <= 1e-13).all(), t
            assert (difference[t:] > 1e-9).all(), t


@pytest.mark.parametrize(("kind", "backbone"), FORMS)
def test_any_length_is_a_prefix_of_a_longer_one(kind, backbone):
    model, tokens = tiny_model(tiny_config(kind, backbone)), ids(20 * K + 3)
    with torch.no_grad():
        whole = model(tokens).logits
    for length in (1, 2, K - 1, K, K + 1, 2 * K, 17 * K + 1, 20 * K + 3):
        out = model(tokens[:, :length], labels=tokens[:, :length])
        assert (out.logits - whole[:, :length]).abs().max() <= 1e-12
        if length > 1:
            model.zero_grad()
            out.loss.backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_rows_of_a_batch_do_not_meet(kind):
    model, tokens = tiny_model(tiny_config(kind)), ids(3 * K + 1, batch=3)
    with torch.no_grad():
        together = model(tokens).logits
        alone = torch.cat([model(row[None]).logits for row in tokens])
    assert (together - alone).abs().max() <= 1e-13


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_inner_lr_scale_multiplies_the_base_rate(kind):
    tokens = ids(3 * K + 1)
    base = tiny_config(kind).ttt_base_lr
    scaled, direct = (tiny_model(tiny_config(kind, ttt_base_lr=b * base)) for b in (1.0, 0.3))
    with torch.no_grad():
        before = scaled(tokens).logits
        scaled.set_inner_lr_scale(0.3)
        assert {m.inner_lr_scale for m in scaled.modules() if isinstance(m, TTTLayer)} == {0.3}
        assert (scaled(tokens).logits - direct(tokens).logits).abs().max() <= 1e-13
        assert (scaled(tokens).logits - before).abs().max() > 1e-6
        scaled.set_inner_lr_scale(1.0)
        assert torch.equal(scaled(tokens).logits, before)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_inner_lr_of_zero_makes_tokens_independent(kind):
    """Without inner steps and convolutions a token knows only its phase in the mini-batch."""
    model, tokens = tiny_model(tiny_config(kind, "transformer")), ids(3 * K)
    model.set_inner_lr_scale(0.0)
    with torch.no_grad():
        logits = model(tokens).logits
        for begin in range(0, 3 * K, K):
            part = model(tokens[:, begin : begin + K]).logits
            assert (part - logits[:, begin : begin + K]).abs().max() <= 1e-13


def test_reader_factors_are_clamped_at_zero():
    model, tokens = tiny_model(tiny_config()), ids(3 * K + 1)
    layers = [m for m in model.modules() if isinstance(m, TTTLayer)]
    with torch.no_grad():
        for layer in layers:
            layer.learnable_token_idx[1] = -5.0
    model(tokens, labels=tokens).loss.backward()
    for layer in layers:
        grad = layer.learnable_token_idx.grad
        assert grad is not None
        assert grad[1] == 0
        assert grad[0] != 0
