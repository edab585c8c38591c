"""A model's folder: files by size, whole or not at all, and what other programs look for in it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.convert.streams import names
from tests.trained import byte_model
from tttscale.convert.model_files import ModelFiles, shards, written
from tttscale.convert.source import Source, Stored
from tttscale.data import ByteTokenizer
from tttscale.errors import CheckpointError, ConfigError, DiskError
from tttscale.model import TTTForCausalLM
from tttscale.model.pretrained import weights_of
from tttscale.tensors import Spec


def files_of(model, **options):
    tensors = {
        key: Stored(key, value.dtype, tuple(value.shape), lambda value=value: value)
        for key, value in weights_of(model).items()
    }
    source = Source("SOURCE", "a test", tensors)
    return ModelFiles(model.config, source, ByteTokenizer(), "# Card\n", **options)


def write(out, files):
    told = []
    with written(out, files, lambda *state: told.append(state)) as folder:
        assert folder != out
        assert not out.exists()
    return told


def spec(*shape):
    return Spec(torch.float32, shape)


def test_shares_of_files():
    specs = {"a": spec(2), "b": spec(1), "c": spec(4), "d": spec(1)}
    assert shards(specs, 12) == [["a", "b"], ["c"], ["d"]]  # c is larger than a file may be
    assert shards(specs, 1) == [["a"], ["b"], ["c"], ["d"]]
    assert shards(specs, 100) == [["a", "b", "c", "d"]]


def test_one_file(tmp_path):
    model = byte_model()
    told = write(tmp_path / "out", files_of(model))
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == [
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "tttscale_auto.py"),
    ]
    fields = json.loads((tmp_path / "out/config.json").read_text())
    assert fields["auto_map"]["AutoConfig"] == "tttscale_auto.TTTConfig"
    assert told[-1][0] == told[-1][1] == sum(v.nbytes for v in weights_of(model).values())
    found = TTTForCausalLM.from_pretrained(tmp_path / "out")
    assert found.config == model.config
    assert all(
        torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True)
    )


def test_several_files(tmp_path):
    model = byte_model("mlp")
    write(tmp_path / "out", files_of(model, shard_bytes=8_000))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert len(names) > 2
    assert not (tmp_path / "out/model.safetensors").exists()
    total = sum(v.nbytes for v in weights_of(model).values())
    assert index["metadata"] == {"total_size": total}
    for name in names:
        with safe_open(tmp_path / "out" / name, "pt") as part:
            assert part.metadata() == {"format": "pt"}
            assert {index["weight_map"][key] for key in part.keys()} == {name}  # noqa: SIM118
    found = TTTForCausalLM.from_pretrained(tmp_path / "out")
    assert all(
        torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype(tmp_path, dtype):
    model = byte_model()
    write(tmp_path / "out", files_of(model, dtype=dtype))
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == str(dtype)[6:]
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        for key, value in weights_of(model).items():
            assert torch.equal(file.get_tensor(key), value.to(dtype))


def test_nothing_is_left_of_what_fails(tmp_path):
    files = files_of(byte_model())
    broken = files.source.tensors["model.norm.weight"]
    files.source.tensors["model.norm.weight"] = broken._replace(
        read=lambda: torch.full(broken.shape, torch.nan)
    )
    with pytest.raises(CheckpointError, match=r"SOURCE: model\.norm\.weight holds 12 values"):
        write(tmp_path / "out", files)
    assert names(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), written(tmp_path / "out", files_of(byte_model()), print):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_there_stays(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(ConfigError, match="out exists already"):
        write(tmp_path / "out", files_of(byte_model()))
    assert names(tmp_path) == ["out"]


def test_what_appears_meanwhile_stays(tmp_path):
    with (
        pytest.raises(ConfigError, match="out exists already"),
        written(tmp_path / "out", files_of(byte_model()), lambda *state: None),
    ):
        (tmp_path / "out").mkdir()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == []


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file exists already"):
        write(tmp_path / "file/out", files_of(byte_model()))


def test_a_full_disk(tmp_path):
    files = files_of(byte_model())

    def full():
        raise OSError(28, "No space left on device")

    one = files.source.tensors["model.norm.weight"]
    files.source.tensors["model.norm.weight"] = one._replace(read=full)
    with pytest.raises(DiskError, match="No space left"):
        write(tmp_path / "out", files)
    assert names(tmp_path) == []


def test_config_json_is_that_of_save_pretrained(tmp_path):
    model = byte_model()
    model.save_pretrained(tmp_path / "saved")
    write(tmp_path / "out", files_of(model))
    out, saved = tmp_path / "out", tmp_path / "saved"
    fields = json.loads((out / "config.json").read_text())
    assert fields.pop("auto_map")
    assert fields == json.loads((saved / "config.json").read_text())
    assert (out / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
