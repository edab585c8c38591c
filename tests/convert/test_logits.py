"""Golden logits: equal ones pass with a figure, others and files that do not fit are refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert.streams import GOLDEN, MODELS, given, imported, params
from tttscale.convert.logits import TOLERANCE, check_logits
from tttscale.convert.settle import Given
from tttscale.errors import CheckpointError


def golden(name):
    return GOLDEN / f"jax/{name}.logits.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logits") / "out"
    imported(params("linear_base"), folder, "linear_base")
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_imports_of_jax_models_compute_what_jax_computed(name, tmp_path):
    said = imported(params(name), tmp_path / "out", name, logits=golden(name), tolerance=1e-6)
    assert said[-1].startswith("logits differ by at most ")
    assert "e-06 from" in said[-1] or "e-07 from" in said[-1]
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("file", ["streaming_params_bf16", "streaming_train_state"])
def test_rounded_weights_need_a_tolerance(file, tmp_path):
    path, check = GOLDEN / f"jax/linear_mamba.{file}", golden("linear_mamba")
    with pytest.raises(CheckpointError, match="raise --tolerance if the weights were rounded"):
        imported(path, tmp_path / "out", logits=check)
    assert not (tmp_path / "out").exists()
    imported(path, tmp_path / "out", logits=check, tolerance=0.03)


@pytest.mark.parametrize(
    "wrong",
    [{"ttt_base_lr": 1.0}, {"rope_theta": 500.0}, {"rms_norm_eps": 0.1}],
)
def test_another_function_is_refused(wrong, tmp_path):
    wishes = {**given("mlp_base")._asdict(), **wrong}
    with pytest.raises(CheckpointError, match="so this is another function"):
        imported(
            params("mlp_base"),
            tmp_path / "out",
            given=Given(**wishes),
            logits=golden("mlp_base"),
        )
    assert not (tmp_path / "out").exists()


IDS, LOGITS = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, 257)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"logits": LOGITS}, "no input_ids"),
        ({"input_ids": IDS}, "no logits"),
        ({"input_ids": IDS[0], "logits": LOGITS}, "no input_ids of the shape"),
        ({"input_ids": IDS[:, :0], "logits": LOGITS}, "no input_ids of the shape"),
        ({"input_ids": IDS.float(), "logits": LOGITS}, "input_ids is F32"),
        ({"input_ids": IDS, "logits": LOGITS[0]}, "no logits of the shape"),
        (
            {"input_ids": IDS, "logits": LOGITS[:, :1].clone()},
            "ids are [1, 2] and logits [1, 1, 257]",
        ),
        ({"input_ids": IDS, "logits": LOGITS[..., :5].clone()}, "and the model's [1, 2, 257]"),
        ({"input_ids": IDS + 257, "logits": LOGITS}, "ids outside of the model's 257"),
        ({"input_ids": IDS - 1, "logits": LOGITS}, "ids outside"),
        ({"input_ids": IDS, "logits": LOGITS + torch.nan}, "not finite"),
    ],
)
def test_files_that_do_not_fit(model, tmp_path, tensors, words):
    save_file(tensors, tmp_path / "logits")
    with pytest.raises(CheckpointError) as caught:
        check_logits(model, tmp_path / "logits", TOLERANCE)
    assert words in str(caught.value)
    assert str(tmp_path / "logits") in str(caught.value)


def test_ids_by_either_name_and_of_either_width(model, tmp_path):
    found = load_file(golden("linear_base"))
    tensors = {"input_ids": found["ids"].int(), "logits": found["logits"]}
    save_file(tensors, tmp_path / "logits")
    assert "differ by at most" in check_logits(model, tmp_path / "logits", TOLERANCE)
