"""Causality, lengths and rows of whole models, in fp64."""

import itertools

import pytest
import torch

from tests.scan.helpers import K, tiny_config, tiny_model

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
