"""Initial values of the parameters: their laws, and what decides them."""

import math

import pytest
import torch

from tttscale.model import TTTConfig, TTTForCausalLM


def medium(init, seed=0, **changes):
    fields = {
        "vocab_size": 300,
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ttt_layer_type": "mlp",
        "share_qk": True,
        "use_gate": True,
        "pre_conv": True,
        "tie_word_embeddings": False,
    }
    return TTTForCausalLM(TTTConfig(**{**fields, **changes}), init=init, seed=seed)


def moments_fit(values, std, kurtosis):
    """Mean, deviation and fourth moment within five standard errors of a centred law's."""
    x, n = values.detach().double().flatten(), values.numel()
    assert abs(x.mean()) < 5 * std / math.sqrt(n)
    assert abs(x.std() / std - 1) < 5 * math.sqrt((kurtosis - 1) / 4 / n)
    assert abs((x / std).pow(4).mean() / kurtosis - 1) < 5 * math.sqrt(11 / n)


@pytest.mark.parametrize("init", ["torch", "jax"])
def test_initial_values(init):
    convolutions, seen = {"weight": [], "bias": []}, set()
    for name, parameter in medium(init).named_parameters():
        last = name.split(".")[-1]
        if "conv_" in name or ".conv.conv." in name:
            convolutions[last].append(parameter.detach().flatten())
        elif last in ("W1", "W2", "learnable_ttt_lr_weight") or (
            last == "weight" and "norm" not in name
        ):
            moments_fit(parameter, 0.02, 3)
        elif last == "ttt_norm_weight" or name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        else:
            zeros = ("b1", "b2", "learnable_ttt_lr_bias", "learnable_token_idx", "ttt_norm_bias")
            assert last in zeros or name.endswith("post_norm.bias"), name
            assert (parameter == 0).all(), name
        seen.add(last)
    assert {"W1", "b1", "W2", "b2", "learnable_token_idx", "ttt_norm_bias", "bias"} <= seen
    weight, bias = (torch.cat(convolutions[k]) for k in ("weight", "bias"))
    assert weight.numel() == 2 * 3 * 128 * 4
    if init == "torch":
        for values in (weight, bias):
            assert values.abs().max() <= 0.5
            moments_fit(values, 0.5 / math.sqrt(3), 1.8)
    else:
        assert (bias == 0).all()
        assert 0.9 < weight.abs().max() <= 1 / 0.8796256610342398
        kurtosis = 2.3661  # of a unit normal cut at two deviations
        moments_fit(weight, 0.5, kurtosis)


def test_initial_values_come_from_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = medium("torch", seed=3).state_dict()
    torch.manual_seed(2)
    second, other = medium("torch", seed=3).state_dict(), medium("torch", seed=4).state_dict()
    torch.set_rng_state(before)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_unknown_init_is_refused():
    with pytest.raises(ValueError, match="'flax'; expected 'torch' or 'jax'"):
        medium("flax")
