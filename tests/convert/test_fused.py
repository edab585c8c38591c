"""The fused layout: equal logits with the features in order, another function without."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert.streams import GOLDEN, imported, weights
from tttscale.convert import fused as module
from tttscale.convert.fused import interleaved
from tttscale.convert.recognise import open_source
from tttscale.errors import CheckpointError
from tttscale.model import TTTForCausalLM

FUSED = ("linear_mamba", "mlp_mamba")
QKV = "model.layers.0.seq_modeling_block.qkv_learnable_ttt_lr_proj.weight"


def golden(name):
    return GOLDEN / f"kernels/{name}.kernels_layout.safetensors"


def difference(folder, name):
    """Largest difference of the logits from the JAX code's."""
    expected = load_file(GOLDEN / f"jax/{name}.logits.safetensors")
    model = TTTForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return float((model(expected["ids"]).logits - expected["logits"]).abs().max())


def test_features_change_places():
    halves = torch.tensor([0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11])
    assert interleaved(halves, 0, 6).tolist() == list(range(12))
    both = torch.arange(6).view(1, 6).expand(2, 6)
    assert interleaved(both, 1, 6).tolist() == [[0, 3, 1, 4, 2, 5]] * 2


@pytest.mark.parametrize("name", FUSED)
def test_weights_are_bit_equal(name):
    with open_source(golden(name)) as source:
        wanted = weights(name)
        assert "fused layout of ttt-lm-kernels" in source.kind
        assert source.tensors.keys() == {*wanted, "lm_head.weight"}
        for key, stored in source.tensors.items():
            read = stored.read()
            assert tuple(read.shape) == stored.shape, key
            tied = key.replace("lm_head", "model.embed_tokens")
            assert torch.equal(read, wanted[tied]), key


@pytest.mark.parametrize("name", FUSED)
def test_logits(name, tmp_path):
    imported(golden(name), tmp_path / "out", name)
    assert difference(tmp_path / "out", name) < 4e-6
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")


@pytest.mark.parametrize(("name", "at_least"), [("linear_mamba", 1.0), ("mlp_mamba", 1.0)])
def test_without_the_order_of_features_it_is_another_function(
    name, at_least, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "interleaved", lambda tensor, dim, head_dim: tensor)
    imported(golden(name), tmp_path / "out", name)
    assert difference(tmp_path / "out", name) > at_least


def harmed(tmp_path, change, name="linear_mamba"):
    tensors = load_file(golden(name))
    change(tensors)
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, tmp_path / "f.safetensors"
    )
    with pytest.raises(CheckpointError) as caught:
        imported(tmp_path / "f.safetensors", tmp_path / "out", name)
    assert not (tmp_path / "out").exists()
    assert str(tmp_path / "f.safetensors") in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.layers.0.seq_modeling_block.ttt_norm_weight", "ttt_norm_weight is missing"),
        ("model.layers.1.seq_modeling_block.o_proj.weight", "missing model.layers.1"),
        ("model.layers.1.mlp.up_gate_proj.weight", "missing model.layers.1.mlp.gate_proj.weight"),
        ("model.embed_tokens.weight", "it has no model.embed_tokens.weight"),
        ("model.norm.weight", "missing model.norm.weight"),
        (QKV.replace("0", "1"), "layers.1.seq_modeling_block.qkv_learnable_ttt_lr_proj"),
    ],
)
def test_missing_tensors(tmp_path, name, words):
    assert words in harmed(tmp_path, lambda tensors: tensors.pop(name))


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (QKV, (195, 64), "is [195, 64]; expected 196 rows"),
        (QKV, (196, 60), "is [64, 60] as"),
        (
            "model.layers.0.seq_modeling_block.ttt_norm_weight",
            (4, 16),
            "as [1, heads, 1, head dim]",
        ),
        ("model.layers.0.seq_modeling_block.o_proj.weight", (64, 60), "is [64, 60], which"),
        ("model.layers.0.seq_modeling_block.W1", (4, 16), "is [4, 16], which"),
        ("model.layers.0.mlp.up_gate_proj.weight", (191, 64), "mlp.up_gate_proj.weight"),
    ],
)
def test_other_shapes(tmp_path, name, shape, words):
    def change(tensors):
        tensors[name] = torch.zeros(shape)

    assert words in harmed(tmp_path, change)


def test_tensors_that_the_layout_does_not_have(tmp_path):
    def change(tensors):
        tensors["model.layers.0.seq_modeling_block.k_proj.weight"] = torch.zeros(64, 64)

    assert "k_proj.weight is no tensor of the layout of ttt-lm-kernels" in harmed(tmp_path, change)


def test_values_that_are_not_finite_are_named_as_the_file_names_them(tmp_path):
    def change(tensors):
        tensors[QKV][70, 3] = float("nan")  # in the gate's rows

    assert f"{QKV} holds 1 values of 4,096 that are not finite" in harmed(tmp_path, change)


def test_a_head_of_its_own(tmp_path):
    tensors = load_file(golden("linear_mamba"))
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    save_file(tensors, tmp_path / "f.safetensors")
    imported(tmp_path / "f.safetensors", tmp_path / "out")
    model = TTTForCausalLM.from_pretrained(tmp_path / "out")
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.lm_head.weight, tensors["lm_head.weight"])
