"""config.json and model.safetensors: there and back, and every way in which they can be wrong."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import CheckpointError
from tttscale.model import TTTForCausalLM
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


@pytest.mark.parametrize(("field", "value"), [("rope_theta", 500.0), ("rms_norm_eps", 1e-5)])
def test_weights_of_a_model_that_computes_something_else(folder, field, value):
    model = tiny_model(tiny_config(**{field: value}), torch.float32)
    saved = getattr(tiny_config(), field)
    with pytest.raises(CheckpointError, match=rf"config\.json has {field} = {saved}, .* {value};"):
        load_weights(model, folder)
    (folder / "config.json").unlink()  # weights alone say nothing of it
    load_weights(model, folder)


def fails(folder, message):
    with pytest.raises(CheckpointError, match=message):
        TTTForCausalLM.from_pretrained(folder)


def test_missing_files(folder, tmp_path):
    fails(tmp_path / "nowhere", r"config\.json does not exist; a model folder holds")
    (folder / "model.safetensors").unlink()
    fails(folder, r"model\.safetensors does not exist; convert")


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
    ],
)
def test_config_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content)
    fails(folder, r"config\.json is not a TTT model's config\.json: ")


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


def test_files_have_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        tiny_model(tiny_config(), torch.float32).save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640}


def test_a_tensor_file_has_the_librarys_bytes(tmp_path):
    from safetensors.torch import save_file

    from tttscale.model.pretrained import save_tensors

    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5, generator=generator),
        "a/é": torch.randn(7, generator=generator, dtype=torch.float64),
        "c": torch.randn(4, 2, generator=generator).to(torch.bfloat16).t(),
        "none": torch.empty(0, 3),
        "one": torch.tensor(2.5),
    }
    save_tensors(tensors, tmp_path / "ours")
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
