"""Every array of the JAX code becomes the official tensor, and none is there twice or unknown."""

import pytest
import torch

from tests.convert.streams import (
    CONFIGS,
    GOLDEN,
    MODELS,
    STATE,
    array,
    params,
    read,
    weights,
    write,
)
from tttscale.convert.jax_names import official_name, open_stream
from tttscale.convert.shapes import expected_shapes
from tttscale.errors import CheckpointError
from tttscale.model import TTTConfig


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_bit_equal(name):
    wanted = weights(name)
    with open_stream(params(name)) as source:
        assert source.tensors.keys() == wanted.keys()
        for key, stored in source.tensors.items():
            assert torch.equal(stored.read(), wanted[key]), key
            assert stored.shape == tuple(wanted[key].shape)
            assert stored.dtype == torch.float32
        assert source.kind == f"parameters of ttt-lm-jax, {len(wanted)} arrays in float32"
        expected = expected_shapes(TTTConfig(**CONFIGS[name]))
        assert {key: stored.shape for key, stored in source.tensors.items()} == expected


@pytest.mark.parametrize("path", [STATE, GOLDEN / "jax/linear_mamba.streaming_params_bf16"])
def test_bf16_weights_are_the_rounded_ones(path):
    wanted = weights("linear_mamba")
    with open_stream(path) as source:
        assert source.tensors.keys() == wanted.keys()
        for key, stored in source.tensors.items():
            assert torch.equal(stored.read(), wanted[key].bfloat16()), key


def test_a_train_state_says_its_step_and_what_is_skipped():
    with open_stream(STATE) as source:
        assert source.kind == (
            "train state of ttt-lm-jax after step 7, 52 arrays in bfloat16; 106 records of the optimizer "
            "are skipped"
        )


def test_moments_are_not_read(monkeypatch, tmp_path):
    """The optimizer's of 159 records cost a few bytes each, and none of their values is read."""
    records = read(STATE)
    for record in records:
        if record[0][0] == "opt_state":
            record[1] = b"\xc1" * len(record[1])  # no msgpack at all
    with open_stream(write(tmp_path / "s", records)) as source:
        assert len(source.tensors) == 52


@pytest.mark.parametrize(
    "path",
    [
        ("model", "h", "01", "seq_norm", "kernel"),
        ("model", "h", "x", "seq_norm", "kernel"),
        ("model", "h", "²", "seq_norm", "kernel"),
        ("model", "h", "-1", "seq_norm", "kernel"),
        ("model", "h", "1" * 30, "seq_norm", "kernel"),
        ("model", "h"),
        ("model", "h", "0", "seq_modeling_block", "learnable_ttt_lr", "kernel"),
        ("model", "wte"),
        (),
    ],
)
def test_unknown_names(path):
    assert official_name(path) is None


def test_names_may_contain_slashes():
    path = ("model", "h", "11", "seq_modeling_block", "learnable_ttt_lr/kernel")
    name, dims, layout = official_name(path)
    assert (name, dims) == ("model.layers.11.seq_modeling_block.learnable_ttt_lr_weight", 3)
    assert layout(torch.zeros(4, 64, 1)).shape == (4, 1, 64)


def refused(records, tmp_path, *words):
    path = write(tmp_path / "s", records)
    with pytest.raises(CheckpointError) as caught, open_stream(path):
        pass
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_record_that_is_there_twice(tmp_path):
    records = read(params("linear_base"))
    refused(
        [*records, records[3]], tmp_path, "record 39", "there twice, first as record 4", "Fetch"
    )


def test_a_record_that_belongs_to_another_model(tmp_path):
    records = read(params("linear_base"))
    key = ["model", "h", "0", "attention", "wq", "kernel"]
    refused(
        [*records, [key, records[0][1]]],
        tmp_path,
        "record 39 (model/h/0/attention/wq/kernel) is no parameter of a TTT model",
    )


def test_dimensions_that_no_parameter_has(tmp_path):
    records = read(params("linear_base"))
    at = next(i for i, (key, _) in enumerate(records) if key[-1] == "embedding")
    records[at][1] = array((257 * 64,), "float32", bytes(257 * 64 * 4))
    refused(records, tmp_path, f"record {at + 1}", "[16448]; expected 2 dimension(s)")


def test_a_stream_without_parameters(tmp_path):
    refused([[["step"], b"\x07"]], tmp_path, "it has no parameters, only step")


@pytest.mark.parametrize("name", ["folder", "missing"])
def test_no_file(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=name), open_stream(tmp_path / name):
        pass
