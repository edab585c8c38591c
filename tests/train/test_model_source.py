"""Which weights and which tokenizer a path names."""

import json
import shutil

import pytest

from tests.trained import byte_model
from tttscale.errors import CheckpointError, DataError
from tttscale.train.model_source import model_folder, model_tokenizer


@pytest.fixture
def run(trained_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained_run, copy)
    return copy


def test_a_run_that_has_ended(run):
    assert model_folder(run) == (run / "final", [])
    assert model_folder(run / "final") == (run / "final", [])
    assert model_tokenizer(run / "final", None).name == "bytes"


def test_a_run_without_final_weights_has_its_newest_checkpoint(run):
    (run / "final" / "model.safetensors").unlink()
    newest = run / "checkpoints" / "step-12"
    assert model_folder(run) == (newest, [])
    assert model_tokenizer(newest, None).name == "bytes"


def test_a_damaged_checkpoint_is_skipped_and_said(run):
    shutil.rmtree(run / "final")
    weights = run / "checkpoints" / "step-12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    folder, notices = model_folder(run)
    assert folder == run / "checkpoints" / "step-8"
    assert len(notices) == 1
    assert "step-12 is skipped" in notices[0]
    for step in (4, 8):
        (run / "checkpoints" / f"step-{step}" / "config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"none of its checkpoints is whole; .*step-12.*step-8"
    ):
        model_folder(run)


def test_moments_are_not_read(run):
    shutil.rmtree(run / "final")
    for path in (run / "checkpoints" / "step-12").glob("optimizer-*"):
        path.unlink()
    assert model_folder(run)[0].name == "step-12"


@pytest.mark.parametrize("kind", ["missing", "a file", "empty"])
def test_what_is_no_model(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "a file":
        path.touch()
    elif kind == "empty":
        path.mkdir()
    words = {"missing": "is no folder", "a file": "is a file", "empty": "holds no config.json"}
    with pytest.raises(CheckpointError, match=words[kind]):
        model_folder(path)


def test_a_tokenizer_that_is_named_or_beside(tmp_path):
    byte_model().save_pretrained(tmp_path)
    assert model_folder(tmp_path) == (tmp_path, [])
    with pytest.raises(DataError, match=r"no tokenizer.json, and no data.json .* --tokenizer"):
        model_tokenizer(tmp_path, None)
    assert model_tokenizer(tmp_path, "bytes").name == "bytes"
    words = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": words}))
    assert model_tokenizer(tmp_path, None).vocab_size == 2


def test_a_store_that_is_gone_or_another(run):
    path = run / "data.json"
    record = json.loads(path.read_text())
    record["stores"][0]["tokenizer"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=rf"sha256 {'0' * 64}, but .* bytes .*--tokenizer"):
        model_tokenizer(run / "final", None)
    record["stores"][0]["store"] = str(run / "nowhere")
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"trained on .*nowhere, whose tokenizer cannot be had"):
        model_tokenizer(run / "final", None)


def test_a_relative_store_is_found_from_any_folder(run, tmp_path, monkeypatch):
    """A run started in the folder above `runs` names its store from there."""
    path = run / "data.json"
    record = json.loads(path.read_text())
    shutil.copytree(record["stores"][0]["store"], tmp_path / "stores" / "here")
    record["stores"][0]["store"] = "stores/here"
    path.write_text(json.dumps(record))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "RUN").symlink_to(run)
    assert model_tokenizer(tmp_path / "elsewhere" / "RUN" / "final", None).name == "bytes"
