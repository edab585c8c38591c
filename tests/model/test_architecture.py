"""Names, sizes and initial values of the parameters."""

import math

import pytest
import torch
from safetensors import safe_open

from tests.model.test_golden import CASES, GOLDEN, MANIFEST
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.model.architecture import preset_fields, preset_names

MILLIONS = {  # linear transformer, linear mamba, mlp transformer, mlp mamba
    "125m": (110.3, 110.4, 114.4, 114.6),
    "350m": (337.3, 337.7, 348.4, 348.8),
    "760m": (733.0, 733.6, 757.9, 758.5),
    "1.3b": (1284.9, 1285.6, 1307.1, 1307.9),
}


@pytest.mark.parametrize("case", CASES)
def test_keys_and_shapes_are_the_official_ones(case):
    with safe_open(GOLDEN / "model" / case / "weights.safetensors", "pt") as weights:
        official = {k: tuple(weights.get_slice(k).get_shape()) for k in weights.keys()}  # noqa: SIM118
    official["lm_head.weight"] = official["model.embed_tokens.weight"]
    model = TTTForCausalLM(TTTConfig(**MANIFEST["model"][case]["config"]))
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == official
    count = sum(p.numel() for p in model.parameters())
    assert count == MANIFEST["model"][case]["params"]


@pytest.mark.parametrize("size", MILLIONS)
def test_presets_have_the_papers_sizes(size):
    suffixes = [("linear", "-transformer"), ("linear", ""), ("mlp", "-transformer"), ("mlp", "")]
    for (learner, suffix), millions in zip(suffixes, MILLIONS[size], strict=True):
        name = f"ttt-{learner}-{size}{suffix}"
        assert name in preset_names()
        with torch.device("meta"):
            model = TTTForCausalLM(TTTConfig(**preset_fields(name)))
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions, name


def test_presets_are_all_of_them_and_no_others():
    assert len(preset_names()) == len(set(preset_names())) == 4 * len(MILLIONS)
    for name in ("ttt-linear-2b", "ttt-linear-125m-mamba", "linear-125m", "-transformer"):
        with pytest.raises(KeyError):
            preset_fields(name)


def test_carry_sizes():
    linear, mlp = (TTTConfig(**preset_fields(f"ttt-{k}-1.3b")) for k in ("linear", "mlp"))
    assert (linear.state_floats, mlp.state_floats) == (133_120, 1_058_816)
    assert linear.tail_floats == 2 * 3 * 2048
    assert TTTConfig(**preset_fields("ttt-linear-1.3b-transformer")).tail_floats == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 10, "num_attention_heads": 4}, "hidden_size 10 is not a multiple"),
        ({"hidden_size": 12, "num_attention_heads": 4}, "head dim 3 is odd"),
        ({"hidden_act": "gelu"}, "silu"),
        ({"mini_batch_size": 0}, "greater than 0"),
        ({"hidden_sizes": 12}, "hidden_sizes"),
    ],
)
def test_impossible_shapes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TTTConfig(**fields)


# ---- initial values ----------------------------------------------------------------------------


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
