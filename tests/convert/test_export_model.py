"""Exports of runs, checkpoints and folders: the same weights bit for bit, or nothing."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert.streams import names
from tests.trained import byte_model
from tttscale.convert import export_model as export_module
from tttscale.convert.export_model import Wishes, export_model
from tttscale.data import ByteTokenizer
from tttscale.errors import CheckpointError, DataError
from tttscale.generate import fingerprints, load_state, save_state
from tttscale.model import TTTForCausalLM
from tttscale.model.pretrained import weights_of
from tttscale.train.model_source import model_tokenizer


def exported(path, out, **wishes):
    said = []
    export_model(path, out, Wishes(**wishes), said.append, lambda done, total: None)
    return said


def same(one, other):
    one, other = (TTTForCausalLM.from_pretrained(folder) for folder in (one, other))
    assert one.config == other.config
    pairs = zip(weights_of(one).items(), weights_of(other).items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_run(trained_run, tmp_path):
    said = exported(trained_run, tmp_path / "out")
    same(trained_run / "final", tmp_path / "out")
    assert said == [f"model {trained_run / 'final'}, tokenizer bytes"]
    assert isinstance(model_tokenizer(tmp_path / "out", None), ByteTokenizer)
    card = (tmp_path / "out/README.md").read_text()
    for words in (
        *(
            "# tiny",
            "| steps | 12 |",
            "| tokens seen |",
            "| training loss |",
            "| precision | fp32 |",
        ),
        *(
            "| data | store, split train of ",
            "fingerprint ",
            "rank(s), ZeRO",
            "Sequences were split",
        ),
    ):
        assert words in card, words
    assert str(trained_run.parent) not in card


def test_a_checkpoint(trained_run, tmp_path):
    folder = trained_run / "checkpoints/step-8"
    exported(folder, tmp_path / "out")
    same(folder, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "# tiny" in card
    assert "| steps | 8 |" in card
    assert "| versions | python " in card


def test_the_newest_checkpoint_that_is_whole(trained_run, tmp_path):
    run = tmp_path / "tiny"
    shutil.copytree(trained_run, run)
    shutil.rmtree(run / "final")
    weights = run / "checkpoints/step-12/model.safetensors"
    harmed = bytearray(weights.read_bytes())
    harmed[-1] ^= 1
    weights.write_bytes(harmed)
    said = exported(run, tmp_path / "out")
    same(run / "checkpoints/step-8", tmp_path / "out")
    assert "step-12 is skipped" in said[0]
    with pytest.raises(CheckpointError, match="is damaged"):
        exported(run / "checkpoints/step-12", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_state_goes_along(trained_run, tmp_path):
    """What was read with the run's weights is continued with the exported ones."""
    exported(trained_run, tmp_path / "out")
    owners = []
    for folder in (trained_run / "final", tmp_path / "out"):
        model = TTTForCausalLM.from_pretrained(folder)
        owners.append((model, fingerprints(model, model_tokenizer(folder, None))))
    (model, of), (other, other_of) = owners
    state = model.generate([[256, 97, 98]], max_new_tokens=2).state
    save_state(tmp_path / "state", state, of)
    assert load_state(tmp_path / "state", other, other_of).positions == state.positions


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_folder_in_another_dtype_and_in_parts(tmp_path, dtype):
    model = byte_model("mlp")
    model.save_pretrained(tmp_path / "in")
    exported(tmp_path / "in", tmp_path / "out", tokenizer="bytes", dtype=dtype, shard_bytes=3000)
    parts = sorted((tmp_path / "out").glob("model-*.safetensors"))
    found = {key: value for part in parts for key, value in load_file(part).items()}
    assert len(parts) > 2
    for key, value in weights_of(model).items():
        assert torch.equal(found[key], value.to(dtype))
    exported(tmp_path / "out", tmp_path / "again", dtype=torch.float32)
    same(tmp_path / "out", tmp_path / "again")


def test_without_a_tokenizer(tmp_path):
    byte_model().save_pretrained(tmp_path / "in")
    with pytest.raises(DataError, match="With --tokenizer none it is exported without one"):
        exported(tmp_path / "in", tmp_path / "out")
    assert names(tmp_path) == ["in"]
    exported(tmp_path / "in", tmp_path / "out", tokenizer="none")
    assert not (tmp_path / "out/tokenizer.json").exists()
    assert "| tokenizer | not known |" in (tmp_path / "out/README.md").read_text()


def test_a_tokenizer_of_another_model(tmp_path):
    byte_model(vocab_size=100).save_pretrained(tmp_path / "in")
    with pytest.raises(CheckpointError, match="100 tokens, but the tokenizer bytes has 259"):
        exported(tmp_path / "in", tmp_path / "out", tokenizer="bytes")


def test_a_head_that_is_not_the_embedding(tmp_path):
    model = byte_model()
    model.save_pretrained(tmp_path / "in")
    path = tmp_path / "in/model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path)
    exported(tmp_path / "in", tmp_path / "out", tokenizer="bytes")
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")
    tensors["lm_head.weight"] += 1
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="a head of its own"):
        exported(tmp_path / "in", tmp_path / "other", tokenizer="bytes")


def test_layers_of_someone_else(tmp_path):
    """Their shapes are not known here; they are copied as they are."""
    byte_model().save_pretrained(tmp_path / "in")
    path = tmp_path / "in/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pattern": ["theirs:Layer"]}))
    exported(tmp_path / "in", tmp_path / "out", tokenizer="bytes")
    found, wanted = (load_file(tmp_path / f / "model.safetensors") for f in ("out", "in"))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert json.loads((tmp_path / "out/config.json").read_text())["pattern"] == ["theirs:Layer"]


def test_a_number_of_layers_that_would_take_all_memory(tmp_path):
    byte_model().save_pretrained(tmp_path / "in")
    path = tmp_path / "in/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 10**9}))
    with pytest.raises(
        CheckpointError, match=r"num_hidden_layers = 1,000,000,000, but .* holds 2 "
    ):
        exported(tmp_path / "in", tmp_path / "out", tokenizer="bytes")


def test_a_run_that_removes_what_is_read(trained_run, tmp_path, monkeypatch):
    """The next checkpoint is taken, and of one that was named itself it is said that it is gone."""
    run, left = tmp_path / "tiny", [1]
    shutil.copytree(trained_run, run)
    shutil.rmtree(run / "final")
    read_config = export_module.read_config

    def removed_first(folder, **how):
        if left:
            left.pop()
            shutil.rmtree(folder)
        return read_config(folder, **how)

    monkeypatch.setattr(export_module, "read_config", removed_first)
    exported(run, tmp_path / "out")
    same(run / "checkpoints/step-8", tmp_path / "out")
    left.append(1)
    with pytest.raises(CheckpointError, match="step-8: no such folder"):
        exported(run / "checkpoints/step-8", tmp_path / "next")
    left.append(1)
    monkeypatch.setattr(export_module, "_TRIES", 1)
    with pytest.raises(CheckpointError, match="its run removed 1 checkpoints while they were read"):
        exported(run, tmp_path / "next")
    assert names(tmp_path) == ["out", "tiny"]
