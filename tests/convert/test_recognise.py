"""Sources are known by their content; what is none is named."""

import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.convert.streams import GOLDEN, STATE, params
from tests.hostile import no_files
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.convert.recognise import open_source
from tttscale.errors import CheckpointError

FUSED = GOLDEN / "kernels/linear_mamba.kernels_layout.safetensors"


def kind(path):
    with open_source(path) as source:
        return source.kind


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught, open_source(path):
        pass
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (params("mlp_base"), "parameters of ttt-lm-jax, 42"),
        (STATE, "train state of ttt-lm-jax after step 7"),
        (FUSED, "fused layout of ttt-lm-kernels, 53 tensors in float32"),
        (GOLDEN / "model/mlp_base/weights.safetensors", "official PyTorch layout, 42 tensors"),
    ],
)
def test_files_by_any_name(tmp_path, file, expected):
    shutil.copy(file, tmp_path / "x.bin")
    assert kind(tmp_path / "x.bin").startswith(expected)


@pytest.mark.parametrize(
    "name",
    [
        "streaming_train_state",
        "streaming_params",
        "streaming_train_state_5000",
        "weights.safetensors",
    ],
)
def test_the_one_source_in_a_folder(tmp_path, name):
    source = FUSED if name.endswith("safetensors") else STATE
    shutil.copy(source, tmp_path / name)
    (tmp_path / "metadata.pkl").write_bytes(pickle.dumps({}))
    assert kind(tmp_path) == kind(source)


def test_a_folder_of_the_official_code(tmp_path):
    tiny_model(tiny_config(), torch.bfloat16).save_pretrained(tmp_path)
    assert kind(tmp_path) == "official PyTorch layout, 52 tensors in bfloat16"
    shutil.copy(FUSED, tmp_path / "model.safetensors")
    assert kind(tmp_path).startswith("fused layout")


def test_two_models_in_a_folder(tmp_path):
    for name in ("streaming_params", "streaming_train_state"):
        shutil.copy(STATE, tmp_path / name)
    refused(tmp_path, "streaming_params, streaming_train_state: more than one model")
    (tmp_path / "streaming_params").unlink()
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    refused(tmp_path, "model.safetensors, streaming_train_state: more than one model")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"a": 1}), "a pickle"),
        (b"PK\x03\x04" + bytes(20), "a pickle"),
        (b"GGUF" + bytes(20), "a GGUF file"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x93NUMPY\x01", "an array of numpy"),
        (b'{"a": 1}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        (b"", "empty"),
        (b"\x92", "of no kind that is known"),
        (b"\x92\xc0", "of no kind that is known"),
        (bytes(100), "of no kind that is known"),
    ],
)
def test_other_files(tmp_path, content, words):
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", words, "Give a folder with model.safetensors")


def test_no_file_waits_or_breaks(tmp_path):
    for path in no_files(tmp_path / "strange").values():
        refused(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pytorch_model.bin", "which are pickles"),
        ("metadata.pkl", "which are pickles"),
        ("model-00001-of-00002.safetensors", "parts of a model, but no model.safetensors.index"),
        ("readme.txt", "it holds readme.txt"),
    ],
)
def test_folders_without_weights(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError) as caught, open_source(tmp_path):
        pass
    assert words in str(caught.value)


def test_a_folder_of_several_files_of_tensors(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"a": torch.zeros(1)}, tmp_path / name)
    refused(tmp_path, "a.safetensors, b.safetensors, tensors under another name", "`import` takes")
