"""The table of tensors against the model itself, and configurations that are read back from it."""

import itertools

import pytest
import torch

from tests.scan.helpers import tiny_config
from tttscale.convert.shapes import check_complete, expected_shapes, shown_fields
from tttscale.convert.source import Source, Stored
from tttscale.errors import CheckpointError
from tttscale.model import TTTForCausalLM
from tttscale.model.architecture import SHOWN
from tttscale.model.pretrained import weights_of

SWITCHES = [
    dict(zip(("share_qk", "use_gate", "pre_conv", "tie_word_embeddings"), on, strict=True))
    for on in itertools.product((False, True), repeat=4)
]


def source_of(config):
    shapes = expected_shapes(config)
    tensors = {
        k: Stored(f"<{k}>", torch.float32, shape, lambda: None) for k, shape in shapes.items()
    }
    return Source("FILE", "a test", tensors)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_table_is_the_model(kind, switches):
    config = tiny_config(kind, conv_kernel=3, **switches)
    wanted = {k: tuple(v.shape) for k, v in weights_of(TTTForCausalLM(config)).items()}
    assert expected_shapes(config) == wanted


def test_layers_of_both_learners():
    config = tiny_config(pattern=["ttt-linear", "ttt-mlp"], layers=3)
    wanted = {k: tuple(v.shape) for k, v in weights_of(TTTForCausalLM(config)).items()}
    assert expected_shapes(config) == wanted
    assert expected_shapes(tiny_config(pattern=["ttt-linear", "theirs:Layer"])) is None


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_shapes_show_the_configuration(kind, switches):
    config = tiny_config(kind, **switches)
    found = shown_fields(source_of(config))
    assert found == {name: getattr(config, name) for name in found}
    hidden = {"tie_word_embeddings"}
    if not (config.share_qk or config.pre_conv):
        hidden.add("conv_kernel")
    assert found.keys() == SHOWN - hidden


def refused(work, *words):
    with pytest.raises(CheckpointError) as caught:
        work()
    for word in ("FILE", *words):
        assert word in str(caught.value)


def test_a_source_without_what_every_model_has():
    source = source_of(tiny_config())
    del source.tensors["model.embed_tokens.weight"]
    refused(lambda: shown_fields(source), "it has no model.embed_tokens.weight")
    refused(lambda: shown_fields(Source("FILE", "", {})), "it holds no tensors")


def test_heads_that_do_not_make_up_the_width():
    source = source_of(tiny_config())
    key = "model.layers.0.seq_modeling_block.ttt_norm_weight"
    source.tensors[key] = source.tensors[key]._replace(shape=(3, 6))
    refused(lambda: shown_fields(source), "3 heads of 6", "the width 12")
    source.tensors[key] = source.tensors[key]._replace(shape=(3, 0))
    refused(lambda: shown_fields(source), "[3, 0]")


def test_a_layer_that_is_not_there():
    source = source_of(tiny_config(layers=4))
    source.tensors = {k: v for k, v in source.tensors.items() if ".layers.1." not in k}
    refused(lambda: shown_fields(source), "3 layers, but none of number 1")


def test_missing_unknown_and_misshapen_tensors():
    config = tiny_config()
    source, expected = source_of(config), expected_shapes(config)
    check_complete(source, expected)
    norm = source.tensors.pop("model.norm.weight")
    refused(lambda: check_complete(source, expected), "missing model.norm.weight")
    source.tensors["strange"] = norm
    refused(lambda: check_complete(source, expected), "missing", "unknown <model.norm.weight>")
    source.tensors["model.norm.weight"] = source.tensors.pop("strange")._replace(shape=(3,))
    refused(
        lambda: check_complete(source, expected),
        "<model.norm.weight> is [3] as model.norm.weight, expected [12]",
    )
    refused(lambda: check_complete(Source("FILE", "", {}), expected), "and 48 more")
