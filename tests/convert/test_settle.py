"""What decides a configuration: shapes, files, flags; and what is refused rather than assumed."""

import json

import pytest
import torch

from tests.scan.helpers import tiny_config, tiny_model
from tttscale.convert.official import official_source
from tttscale.convert.settle import Given, settle
from tttscale.data import ByteTokenizer
from tttscale.errors import CheckpointError, ConfigError
from tttscale.model.weights import open_weights


@pytest.fixture
def folder(tmp_path):
    tiny_model(tiny_config(vocab_size=259), torch.float32).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def settled(folder, given=None, tokenizer=None):
    with open_weights(folder) as weights:
        return settle(official_source(weights, folder), given or Given(), tokenizer)


def edit(folder, **changes):
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


def refused(folder, *words, kind=CheckpointError, **options):
    with pytest.raises(kind) as caught:
        settled(folder, **options)
    for word in words:
        assert word in str(caught.value)


def test_a_folder_says_all(folder):
    config, notices = settled(folder, tokenizer=ByteTokenizer())
    assert config == tiny_config(vocab_size=259)
    assert notices == []


def test_flags_may_repeat_what_the_folder_says(folder):
    assert settled(folder, Given(1.0, 10000.0, 1e-6))[0] == tiny_config(vocab_size=259)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Given(ttt_base_lr=0.1), "--ttt-base-lr 0.1: "),
        (Given(rope_theta=500.0), "--rope-theta 500.0: "),
        (Given(rms_norm_eps=1e-5), "--rms-norm-eps 1e-05: "),
    ],
)
def test_flags_may_not_contradict_it(folder, given, words):
    refused(folder, words, "config.json has", "Leave the flag out", kind=ConfigError, given=given)


def test_without_a_configuration_the_inner_learning_rate_must_be_given(folder):
    (folder / "config.json").unlink()
    refused(folder, "--ttt-base-lr is needed", "1.0 for TTT-Linear and 0.1", kind=ConfigError)
    config, notices = settled(folder, Given(ttt_base_lr=0.5))
    assert config == tiny_config(vocab_size=259, ttt_base_lr=0.5, initializer_range=0.02)
    assert [notice.split(" is ")[0] for notice in notices[:2]] == [
        "rope_theta = 10000",
        "rms_norm_eps = 1e-06",
    ]
    assert "no tokenizer" in notices[2]
    config, notices = settled(folder, Given(0.5, 500.0, 1e-5), ByteTokenizer())
    assert (config.rope_theta, config.rms_norm_eps, notices) == (500.0, 1e-5, [])
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (256, 257, 258)


def test_a_configuration_that_leaves_it_out_is_no_word_either(folder):
    edit(folder, ttt_base_lr=...)
    refused(folder, "--ttt-base-lr is needed", "config.json does not say", kind=ConfigError)
    edit(folder, rope_theta=...)
    config, notices = settled(folder, Given(ttt_base_lr=1.0))
    assert config.rope_theta == 10000.0
    assert "rope_theta = 10000 is assumed" in notices[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("vocab_size", 300), ("hidden_size", 24), ("num_attention_heads", 6)),
        *(("mini_batch_size", 16), ("ttt_layer_type", "mlp"), ("share_qk", False)),
        *(("num_hidden_layers", 24), ("conv_kernel", 3), ("tie_word_embeddings", False)),
    ],
)
def test_a_configuration_of_other_weights(folder, name, value):
    edit(folder, **{name: value})
    refused(folder, f"config.json has {name} = {json.dumps(value)}, but", "Put back both")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rope_theta": "x"}, "rope_theta"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
    ],
)
def test_values_that_no_model_has(folder, changes, words):
    edit(folder, **changes)
    refused(folder, "config.json", words)


def test_another_tokenizer(folder):
    tiny_model(tiny_config(), torch.float32).save_pretrained(folder)
    refused(folder, "23 tokens, but the tokenizer bytes has 259", tokenizer=ByteTokenizer())
    tiny_model(tiny_config(vocab_size=300), torch.float32).save_pretrained(folder)
    assert "is it the model's?" in settled(folder, tokenizer=ByteTokenizer())[1][0]


def test_a_head_that_repeats_the_embedding(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path)
    assert settled(folder)[0].tie_word_embeddings
    edit(folder, tie_word_embeddings=...)
    assert settled(folder)[0].tie_word_embeddings
    edit(folder, tie_word_embeddings=False)
    assert not settled(folder)[0].tie_word_embeddings
    tensors["lm_head.weight"] += 1
    save_file(tensors, path)
    assert not settled(folder)[0].tie_word_embeddings
    for value in (True, ...):
        edit(folder, tie_word_embeddings=value)
        refused(folder, "has a head of its own (lm_head.weight)")
