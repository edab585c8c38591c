"""Which costs a command computes with, and files of them that do not fit its run."""

from dataclasses import replace

import pytest

from tests.train.small import small_config
from tttscale.errors import ConfigError
from tttscale.plan.chosen_costs import chosen_costs, what_costs_depend_on
from tttscale.plan.costs import assumed

CONFIG = small_config()


def written(path, **facts):
    costs = replace(assumed("cpu", CONFIG), source="measured", facts=facts)
    path.write_text(costs.to_json())
    return path


def other(**changes):
    return CONFIG.model_copy(
        update={"model": CONFIG.model.model_copy(update=changes)},
    )


def test_without_a_file_they_are_assumed():
    assert chosen_costs("h200", None, CONFIG) == assumed("h200", CONFIG)


def test_a_file_comes_before_a_gpu_and_may_have_another_number_of_layers(tmp_path):
    path = written(tmp_path / "a.json", of=what_costs_depend_on(CONFIG))
    assert chosen_costs("h200", path, CONFIG).source == "measured"
    assert chosen_costs("h200", path, other(num_hidden_layers=7)).kinds == ("ttt-linear",) * 7


def test_measured_is_the_file_of_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"costs\.json: No such file.*--calibrate CONFIG"):
        chosen_costs("measured", None, CONFIG)
    written(tmp_path / "costs.json")
    assert chosen_costs("measured", None, CONFIG).source == "measured"


def test_costs_of_another_shape_are_refused_with_its_key(tmp_path):
    path = written(tmp_path / "a.json", of=what_costs_depend_on(CONFIG))
    said = (
        rf"^{path} was measured with model\.hidden_size = 12, and the run has 24\. Measure it again"
    )
    with pytest.raises(ConfigError, match=said):
        chosen_costs("h200", path, other(hidden_size=24))


def test_a_layer_that_was_not_measured_is_named(tmp_path):
    path = written(tmp_path / "a.json")
    with pytest.raises(
        ConfigError, match=r"a\.json holds no costs of ttt-mlp, which model\.pattern"
    ):
        chosen_costs("h200", path, other(ttt_layer_type="mlp"))


def test_options_of_layers_and_compiling_count(tmp_path):
    path = written(tmp_path / "a.json", of=what_costs_depend_on(CONFIG))
    said = (
        r"measured with model\.options = \{\}, and the run has \{\"ttt-linear\": \{\"a\": 1\}\}\. "
    )
    with pytest.raises(ConfigError, match=said):
        chosen_costs("h200", path, other(options={"ttt-linear": {"a": 1}}))
    train = CONFIG.train.model_copy(update={"compile": True})
    said = r"a\.json was measured with train\.compile = auto, and the run has True"
    with pytest.raises(ConfigError, match=said):
        chosen_costs("h200", path, CONFIG.model_copy(update={"train": train}))


def test_another_number_of_threads_is_said(tmp_path):
    path = written(tmp_path / "a.json", of=what_costs_depend_on(CONFIG))
    parallel = CONFIG.parallel.model_copy(update={"threads": 3})
    found = chosen_costs("h200", path, CONFIG.model_copy(update={"parallel": parallel}))
    assert found.source == ("measured; measured with parallel.threads = null, and the run has 3")


def test_a_file_may_be_older_than_what_is_compared(tmp_path):
    told = what_costs_depend_on(CONFIG)
    del told["train.compile"], told["model.options"], told["parallel.threads"]
    path = written(tmp_path / "a.json", of=told)
    assert chosen_costs("h200", path, CONFIG).source == "measured"
