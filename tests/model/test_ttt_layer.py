"""The inner learning rate of TTT layers, in fp64."""

import pytest
import torch

from tests.model.test_language_model import ids
from tests.scan.helpers import K, tiny_config, tiny_model
from tttscale.model.ttt_layer import TTTLayer


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


def test_a_watch_is_shown_what_the_learner_is_fitted_to():
    model, tokens = tiny_model(tiny_config()), ids(3 * K + 1)
    layer = next(m for m in model.modules() if isinstance(m, TTTLayer))
    shown = []
    layer.watch = lambda given, chunk: shown.append((given, chunk))
    with torch.no_grad():
        watched = model(tokens).logits
        layer.watch = None
        assert torch.equal(model(tokens).logits, watched)
    ((given, chunk),) = shown
    assert chunk.begin == 0
    assert given.k.shape == given.v.shape == (len(tokens), 2, 3 * K + 1, 6)
    assert given.lr.shape == given.k.shape[:3]
    for weight, name in zip(given.initial, ("W1", "b1"), strict=True):
        assert torch.equal(weight[0], getattr(layer, name))
    assert all(
        torch.equal(s, w.expand_as(s)) for s, w in zip(given.state, given.initial, strict=True)
    )
