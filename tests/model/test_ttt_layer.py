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
