"""Names and sizes of the parameters, and shapes that are refused."""

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
