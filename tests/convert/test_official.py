"""Folders of the official code in every form: tensors by their official names, fields, and old tables."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert.streams import imported
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.convert.official import read_fields
from tttscale.errors import CheckpointError
from tttscale.model import TTTForCausalLM
from tttscale.model.pretrained import weights_of


@pytest.fixture
def model():
    return tiny_model(tiny_config(), torch.float32)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    return tmp_path / "in"


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    changed = change(tensors)
    save_file(
        tensors if changed is None else changed, folder / "model.safetensors", {"format": "pt"}
    )


def same(model, folder):
    found = TTTForCausalLM.from_pretrained(folder)
    assert found.config == model.config
    for key, value in weights_of(model).items():
        assert torch.equal(weights_of(found)[key], value), key


def test_whole(model, folder, tmp_path):
    said = imported(folder, tmp_path / "out")
    same(model, tmp_path / "out")
    assert said[0].startswith(f"{folder}: official PyTorch layout, 52 tensors in float32")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_stay(model, folder, tmp_path, dtype):
    rewrite(folder, lambda tensors: {k: v.to(dtype) for k, v in tensors.items()})
    imported(folder, tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    assert {v.dtype for v in found.values()} == {dtype}
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == str(dtype)[6:]
    assert TTTForCausalLM.from_pretrained(tmp_path / "out").config == model.config


def test_sharded(model, folder, tmp_path):
    from tests.model.test_weights import shard

    shard(folder)
    imported(folder, tmp_path / "out")
    same(model, tmp_path / "out")


def test_a_variant(model, folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    imported(folder, tmp_path / "out")
    same(model, tmp_path / "out")


def test_names_of_the_core(model, folder, tmp_path):
    rewrite(folder, lambda tensors: {k.removeprefix("model."): v for k, v in tensors.items()})
    imported(folder, tmp_path / "out")
    same(model, tmp_path / "out")


def test_one_file_of_a_folder(model, folder, tmp_path):
    imported(folder / "model.safetensors", tmp_path / "out")
    same(model, tmp_path / "out")


def test_tables_are_compared_and_left_out(model, folder, tmp_path):
    block = "model.layers.0.seq_modeling_block"
    table = 1 / torch.arange(1, model.config.mini_batch_size + 1)
    rewrite(folder, lambda tensors: {**tensors, f"{block}.token_idx": table})
    imported(folder, tmp_path / "out")
    same(model, tmp_path / "out")
    rewrite(folder, lambda tensors: {**tensors, f"{block}.token_idx": table + 1})
    with pytest.raises(
        CheckpointError, match=r"the table .*token_idx is not that of mini_batch_size"
    ):
        imported(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_layers_of_someone_else(folder, tmp_path):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"pattern": ["theirs:Layer"]}))
    with pytest.raises(CheckpointError, match="layers of someone's own"):
        imported(folder, tmp_path / "out")


def test_layers_of_both_learners(tmp_path):
    model = tiny_model(tiny_config(pattern=["ttt-mlp", "ttt-linear"]), torch.float32)
    model.save_pretrained(tmp_path / "in")
    imported(tmp_path / "in", tmp_path / "out")
    same(model, tmp_path / "out")


def test_fields_by_other_names(tmp_path):
    assert read_fields(tmp_path) == ({}, None)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"conv_before_ttt": True, "unknown": 1, "vocab_size": 5}))
    assert read_fields(tmp_path) == ({"pre_conv": True, "vocab_size": 5}, path)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="no object"):
        read_fields(tmp_path)
