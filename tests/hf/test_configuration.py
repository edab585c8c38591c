"""The configuration: every field there and back, and wrong values named."""

import json

import pytest

pytest.importorskip("transformers")

import transformers

from tttscale.errors import ConfigError
from tttscale.hf import TTTConfig
from tttscale.model.architecture import TTTConfig as Shape
from tttscale.model.architecture import preset_fields
from tttscale.model.pretrained import read_config

OTHER = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "initializer_range": 0.03,
    "rms_norm_eps": 1e-5,
    "use_cache": True,
    "pad_token_id": 3,
    "bos_token_id": 5,
    "eos_token_id": 7,
    "pretraining_tp": 2,
    "tie_word_embeddings": False,
    "rope_theta": 500.0,
    "use_gate": True,
    "share_qk": True,
    "ttt_layer_type": "mlp",
    "ttt_base_lr": 0.1,
    "mini_batch_size": 8,
    "pre_conv": True,
    "conv_kernel": 3,
    "pattern": ("ttt-mlp", "ttt-linear"),
    "options": {"ttt-mlp": {"base_lr": 0.2}},
    "scan_checkpoint_group_size": 4,
}


def test_defaults_are_ours():
    assert TTTConfig().architecture() == Shape()
    assert TTTConfig(**preset_fields("ttt-mlp-1.3b")).architecture() == Shape(
        **preset_fields("ttt-mlp-1.3b")
    )


@pytest.mark.parametrize("unset", [(), ("pad_token_id", "bos_token_id", "eos_token_id")], ids=str)
def test_every_field_is_saved(unset, tmp_path):
    shape = Shape(**OTHER | dict.fromkeys(unset))
    default = Shape()
    same = {"hidden_act"} | set(unset) & {"pad_token_id"}
    assert {n for n in Shape.model_fields if getattr(shape, n) == getattr(default, n)} == same
    TTTConfig(**shape.model_dump()).save_pretrained(tmp_path)
    assert read_config(tmp_path) == shape
    found = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(found) is TTTConfig
    assert found.architecture() == shape
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["model_type"] == "ttt"
    assert set(fields["auto_map"]) == {"AutoConfig", "AutoModelForCausalLM"}


def test_fields_of_every_configuration_are_kept(tmp_path):
    TTTConfig(vocab_size=9, id2label={0: "x"}, tttscale_version="0.1.0").save_pretrained(tmp_path)
    found = TTTConfig.from_pretrained(tmp_path)
    assert found.id2label == {0: "x"}
    assert found.tttscale_version == "0.1.0"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": 0}, "hidden_size = 0: .*greater than 0"),
        ({"ttt_layer_type": "rnn"}, "ttt_layer_type = 'rnn'"),
        ({"hidden_size": 30}, "is not a multiple of num_attention_heads"),
    ],
    ids=str,
)
def test_wrong_values(fields, words):
    with pytest.raises(ConfigError, match=words):
        TTTConfig(**fields)
    config = TTTConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(ConfigError, match=words):
        config.architecture()
