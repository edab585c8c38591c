"""config.json and model.safetensors: there and back, and every way in which they can be wrong."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hostile import BAD_JSON, no_files
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import CheckpointError
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.model.architecture import INERT, SHOWN
from tttscale.model.pretrained import load_weights

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path):
    tiny_model(tiny_config(), torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(kind, backbone, tied, tmp_path):
    config = tiny_config(kind, backbone, tie_word_embeddings=tied, rope_theta=500.0)
    model = tiny_model(config, torch.float32)
    model.save_pretrained(tmp_path)
    again = TTTForCausalLM.from_pretrained(str(tmp_path))
    assert again.config == config
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is tied
    ours, theirs = again.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    ids = torch.arange(10)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "ttt"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(stored, tmp_path):
    model = tiny_model(tiny_config(tie_word_embeddings=True), torch.float32).to(stored)
    model.save_pretrained(tmp_path)
    for asked, wanted in (("auto", stored), (torch.float64, torch.float64), (None, torch.float32)):
        options = {} if asked is None else {"dtype": asked}
        again = TTTForCausalLM.from_pretrained(tmp_path, device="cpu", **options)
        assert again.lm_head.weight is again.model.embed_tokens.weight
        for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
            assert ours.dtype == wanted
            assert torch.equal(ours.double(), theirs.double())


def test_files_of_several_dtypes_are_taken_as_fp32(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name].bfloat16()}, folder / "model.safetensors")
    loaded = TTTForCausalLM.from_pretrained(folder, dtype="auto")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_saving_again_replaces(folder):
    model = tiny_model(tiny_config(), torch.float32, seed=5)
    model.save_pretrained(folder)
    again = TTTForCausalLM.from_pretrained(folder)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_fields_of_other_libraries_are_passed_over(folder):
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"transformers_version": "4.46.3", "id2label": {"0": "a"}}
    (folder / "config.json").write_text(json.dumps(fields))
    assert TTTForCausalLM.from_pretrained(folder).config == tiny_config()


def test_a_tied_file_may_hold_the_head_too(folder):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights[EMBEDDING].clone()
    save_file(weights, folder / "model.safetensors")
    assert torch.equal(
        TTTForCausalLM.from_pretrained(folder).lm_head.weight, weights["lm_head.weight"]
    )


def test_a_head_of_its_own_is_not_taken_for_the_embedding(tmp_path):
    tiny_model(tiny_config(tie_word_embeddings=False), torch.float32).save_pretrained(tmp_path)
    model = tiny_model(tiny_config(), torch.float32, seed=3)
    before = model.lm_head.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"set model\.tie_word_embeddings=false"):
        load_weights(model, tmp_path)
    assert torch.equal(model.lm_head.weight, before)


NAMES_OR_SHAPES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "tie_word_embeddings": False,
    "use_gate": False,
    "share_qk": False,
    "ttt_layer_type": "mlp",
    "mini_batch_size": 8,
    "pre_conv": False,
    "conv_kernel": 3,
}
MEANING = {
    "rope_theta": 500.0,
    "rms_norm_eps": 1e-5,
    "ttt_base_lr": 0.5,
    "options": {"ttt-linear": {"base_lr": 0.5}},
}
NOTHING = {
    "initializer_range": 0.1,
    "max_position_embeddings": 4096,
    "use_cache": True,
    "pad_token_id": 3,
    "bos_token_id": None,
    "eos_token_id": 5,
    "pretraining_tp": 2,
    "scan_checkpoint_group_size": 4,
}
ONE_VALUE = {"hidden_act"}
"""There is one value only; with a second one it belongs to `MEANING`."""
BY_LAYER = {"pattern"}
"""Compared by the layers' names."""


def test_every_field_has_a_verdict():
    """A field that nobody has thought about is one more way to take weights for something else."""
    verdicts = [*NAMES_OR_SHAPES, *MEANING, *NOTHING, *ONE_VALUE, *BY_LAYER]
    assert sorted(verdicts) == sorted(TTTConfig.model_fields)
    assert NAMES_OR_SHAPES.keys() == SHOWN
    assert NOTHING.keys() == INERT  # all others are compared, so that a new one is, too
    with pytest.raises(ValueError, match="Input should be 'silu'"):
        tiny_config(hidden_act="gelu")


@pytest.mark.parametrize("field", MEANING)
def test_weights_of_a_model_that_computes_something_else(folder, field):
    value, saved = MEANING[field], getattr(tiny_config(), field)
    model = tiny_model(tiny_config(**{field: value}), torch.float32)
    before = model.model.norm.weight.detach().clone()
    there, here = (re.escape(json.dumps(found)) for found in (saved, value))
    message = rf"config\.json has {field} = {there}, and the model {here}; set model\.{field}={there}\. .*"
    with pytest.raises(
        CheckpointError, match=message + rf"another {field} on purpose, write it into"
    ):
        load_weights(model, folder)
    assert torch.equal(model.model.norm.weight, before)
    load_weights(model, folder, resuming=True)  # there it is compared, and remarked on, beforehand
    (folder / "config.json").unlink()  # weights alone say nothing of it
    load_weights(model, folder)
    theirs = tiny_model(tiny_config(), torch.float32)
    ids = torch.arange(20)[None]
    assert not torch.allclose(model(ids).logits, theirs(ids).logits, atol=1e-4)  # it does matter


def test_a_pattern_is_what_it_says_of_each_layer(folder):
    load_weights(tiny_model(tiny_config(pattern=("ttt-linear",)), torch.float32), folder)
    mixed = tiny_model(tiny_config(pattern=("ttt-linear", "ttt-mlp")), torch.float32)
    with pytest.raises(CheckpointError, match=r"has pattern = null, and the model .*ttt-mlp"):
        load_weights(mixed, folder)


@pytest.mark.parametrize("field", NAMES_OR_SHAPES)
@pytest.mark.parametrize("with_config", [True, False])
def test_fields_that_names_or_shapes_show(folder, field, with_config):
    if not with_config:
        (folder / "config.json").unlink()
    model = tiny_model(tiny_config(**{field: NAMES_OR_SHAPES[field]}), torch.float32)
    saved = getattr(tiny_config(), field)
    said = rf"Its config\.json has {field} = {saved} \(the model: {model.config.__dict__[field]}\)"
    message = rf"does not fit the model \(\d+ problems\): .*{said if with_config else ''}"
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, folder)


@pytest.mark.parametrize("field", NOTHING)
def test_fields_that_decide_nothing(folder, field):
    model = tiny_model(tiny_config(**{field: NOTHING[field]}), torch.float32, seed=7)
    load_weights(model, folder)
    ids = torch.arange(20)[None]
    theirs = TTTForCausalLM.from_pretrained(folder)
    assert torch.equal(model(ids).logits, theirs(ids).logits)


def fails(folder, message):
    with pytest.raises(CheckpointError, match=message):
        TTTForCausalLM.from_pretrained(folder)


def test_missing_files(folder, tmp_path):
    fails(
        tmp_path / "nowhere",
        r"nowhere: no such folder\. Give the folder that holds model\.safetensors",
    )
    fails(folder / "config.json", r"config\.json: a file, and not a folder")
    (tmp_path / "empty").mkdir()
    fails(
        tmp_path / "empty",
        r"config\.json does not exist; a model folder holds .* \(it holds nothing\. Give",
    )
    (folder / "model.safetensors").unlink()
    fails(folder, r"model\.safetensors does not exist: it holds config\.json\. Give a folder")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"null",
        b"\xff\xfe\x00",
        b'{"hidden_size": -4}',
        b'{"hidden_size": "wide"}',
        b'{"hidden_size": 10, "num_attention_heads": 4}',
        b'{"rms_norm_eps": NaN}',
        b'{"rms_norm_eps": "nan"}',
        b'{"rope_theta": 1e400}',
        b'{"rope_theta": "inf"}',
        b'{"ttt_base_lr": Infinity}',
        b'{"initializer_range": -1}',
        b'{"hidden_act": "gelu"}',
        b'{"model_type": "llama"}',
        b'{"model_type": ["ttt"]}',
        b'{"vocab_size": ' + b"9" * 30 + b"}",
        *BAD_JSON.values(),
    ],
)
def test_config_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content)
    fails(folder, r"config\.json is not a TTT model's config\.json: ")


def test_a_config_that_is_no_file(folder, tmp_path):
    for path in no_files(tmp_path / "strange").values():
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to(path)
        fails(folder, r"config\.json (is not a TTT model's config\.json|does not exist)")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_damaged_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    fails(folder, r"model\.safetensors is damaged: ")


def test_weights_that_do_not_fit(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    norm = weights.pop("model.norm.weight")
    save_file(weights, path)
    fails(folder, r"does not fit the model \(1 problems\): missing model\.norm\.weight")
    save_file({**weights, "model.norm.weight": norm[:5].clone()}, path)
    fails(folder, r"model\.norm\.weight is \(5,\), the model wants \(12,\)")
    save_file({**weights, "model.norm.weight": norm, "extra": norm.clone()}, path)
    fails(folder, "unknown extra")
    del weights[EMBEDDING]
    save_file({**weights, "model.norm.weight": norm}, path)
    fails(folder, r"\(2 problems\): missing lm_head\.weight; missing model\.embed_tokens\.weight")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("core", [False, True], ids=["causal", "core"])
def test_weights_of_a_wrapper_name_its_prefix(folder, prefix, core):
    path = folder / "model.safetensors"
    names = {key.removeprefix("model.") if core else key: t for key, t in load_file(path).items()}
    save_file({prefix + key: tensor for key, tensor in names.items()}, path)
    fails(folder, rf"have names that begin with {prefix}, which .*model\.module of Dist")


def test_files_have_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        tiny_model(tiny_config(), torch.float32).save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640}
