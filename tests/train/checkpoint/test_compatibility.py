"""A run that starts from weights: what is refused, and what is remarked on."""

import json

import pytest
import torch

from tests.scan.helpers import tiny_model
from tttscale.config import load_config
from tttscale.data.provenance import write_provenance
from tttscale.data.windows.mixture import open_mixture
from tttscale.errors import CheckpointError
from tttscale.train.build import build_model
from tttscale.train.checkpoint.compatibility import start_notices


@pytest.fixture
def config(folder, tmp_path):
    start = f"model.initial_weights={tmp_path}/run/final"
    return load_config(folder / "run.yaml", [start, "run.seed=5"])


@pytest.fixture
def weights(config, tmp_path):
    """What an earlier run left: final weights, and what it trained on beside them."""
    tiny_model(config.architecture(), torch.float32).save_pretrained(tmp_path / "run" / "final")
    write_provenance(tmp_path / "run", open_mixture(config))
    return tmp_path / "run" / "final"


def remarks(config):
    return start_notices(config, open_mixture(config))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_nothing_to_say(config, weights):
    assert remarks(config) == []
    model = config.model.model_copy(update={"initial_weights": None})
    assert start_notices(config.model_copy(update={"model": model}), None) == []
    (weights.parent / "data.json").unlink()
    assert remarks(config) == []


@pytest.mark.parametrize("inside", [True, False], ids=["a checkpoint", "a run"])
def test_weights_of_another_tokenizer(config, weights, inside):
    record = weights.parent / "data.json"
    edit(record, lambda content: content["stores"][0].update(tokenizer="ab" * 32))
    if inside:
        record = record.rename(weights / "data.json")
    (remark,) = remarks(config)
    assert remark.startswith(f"model.initial_weights={weights}: ")
    assert f"by {record} the weights were trained with {'ab' * 32}: the same ids may mean" in remark
    assert "tokenizer bytes (sha256 " in remark
    record.write_text("{")
    assert f"is not known: {record}: damaged: not JSON" in remarks(config)[0]


def test_weights_without_a_config(config, weights):
    (weights / "config.json").unlink()
    (remark,) = remarks(config)
    assert "no config.json, so these are taken from the configuration unchecked: " in remark
    assert "rms_norm_eps, rope_theta, ttt_base_lr" in remark
    build_model(config, torch.device("cpu"))


def test_weights_of_another_inner_learning_rate(config, weights):
    edit(weights / "config.json", lambda content: content.update(ttt_base_lr=0.1))
    expected = (
        r"^model\.initial_weights: \S+config\.json has ttt_base_lr = 0\.1, and the model 1\.0; set"
    )
    with pytest.raises(CheckpointError, match=expected):
        build_model(config, torch.device("cpu"))
    build_model(config, torch.device("cpu"), weights)  # a checkpoint of this run: compared before


def test_weights_that_are_not_finite(config, weights):
    model = tiny_model(config.architecture(), torch.float32)
    model.model.norm.weight.data[3] = float("nan")
    model.save_pretrained(weights)
    expected = (
        r"safetensors: model\.norm\.weight holds 1 values of 16 that are not finite .*resume=N"
    )
    for folder, where in ((None, r"^model\.initial_weights: "), (weights, "^")):
        with pytest.raises(CheckpointError, match=where + r"\S+" + expected):
            build_model(config, torch.device("cpu"), folder)
