"""Causality, lengths and rows of whole models, in fp64."""

import itertools

import pytest
import torch

from tests.scan.helpers import K, tiny_config, tiny_model
from tttscale.model import TTTForCausalLM

FORMS = list(itertools.product(["linear", "mlp"], ["mamba", "transformer"]))


def test_modules_that_are_there_make_a_model_that_shares_them():
    model = tiny_model(tiny_config("mlp"))
    state = torch.get_rng_state()
    same = TTTForCausalLM.of_modules(model.config, model.model, model.lm_head)
    assert torch.equal(torch.get_rng_state(), state)
    assert [*same.state_dict()] == [*model.state_dict()]
    assert all(a is b for a, b in zip(same.parameters(), model.parameters(), strict=True))
    ids = torch.arange(10)[None]
    assert torch.equal(same(ids).logits, model(ids).logits)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    assert torch.equal(same(ids).logits, model(ids).logits)


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


@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
def test_a_block_hands_on_its_parts_in_the_order_of_its_forward(backbone):
    config = tiny_config("linear", backbone)
    (block, _) = TTTForCausalLM(config).carry_layers
    parts = block.carry(3, 40)
    before = ["pre_conv", "qk_conv"] if backbone == "mamba" else []
    assert list(parts) == [*before, "state"]
    for name in before:
        assert parts[name].shapes == ((3, config.conv_kernel - 1, config.hidden_size),)
    assert parts["state"].shapes[0] == (3, 2, 6, 6)


def test_labels_are_shifted_and_masked_as_hugging_face_models_do():
    model, tokens = tiny_model(tiny_config()), ids(9)
    labels = tokens.clone()
    labels[:, 4] = -100
    out = model(tokens, labels)
    picked = out.logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    kept = labels[:, 1:] != -100
    torch.testing.assert_close(out.loss, -picked[kept].mean(), rtol=1e-12, atol=0)
    assert model(tokens).loss is None


def test_embedding_blocks_and_head_make_up_the_forward():
    model, tokens = tiny_model(tiny_config("mlp")), ids(9)
    x = model.embed(tokens[:, :-1])
    for block in model.blocks:
        x = block(x)
    total, losses = model.head(x, tokens[:, 1:])
    whole = model(tokens, tokens)
    torch.testing.assert_close(total / losses.numel(), whole.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(losses.sum(), total.detach(), rtol=1e-12, atol=0)
    assert not losses.requires_grad


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_the_embedding(tied):
    model = TTTForCausalLM(tiny_config(tie_word_embeddings=tied))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert ("lm_head.weight" in dict(model.named_parameters())) != tied
