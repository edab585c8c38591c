"""Rates of a step: model FLOPs per second and utilisation, None where they would be guessed."""

import pytest

from tests.plan.test_flops import Undecided  # registers a layer that cannot be counted
from tttscale.config.schema import Config
from tttscale.plan.rates import flops_per_token, step_rates


def config_of(**changes):
    sections = {
        "run": {"name": "x"},
        "model": {
            "vocab_size": 259,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "data": {"store": "x", "sequence_length": 4096},
        "parallel": {"chunk_length": 1024},
        "train": {"steps": 1},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        sections.setdefault(section, {})[name] = value
    return Config.model_validate(sections)


def test_a_known_device():
    config = config_of(train__precision="bf16")
    found = step_rates(config, 4096, 0.5, 2, "NVIDIA H200")
    rate = flops_per_token(config) * 8192
    assert found == {
        "model_flops_per_second": rate,
        "mfu": pytest.approx(rate / (2 * 989.4e12)),
    }
    wide = step_rates(config_of(train__precision="fp32"), 4096, 0.5, 2, "NVIDIA H200")
    assert wide["mfu"] == pytest.approx(rate / (2 * 67e12))


def test_an_unknown_device_is_left_out():
    found = step_rates(config_of(), 4096, 0.5, 1, "cpu")
    assert found["model_flops_per_second"] > 0
    assert found["mfu"] is None


def test_a_peak_that_is_given():
    found = step_rates(config_of(logging__peak_tflops=0.25), 4096, 0.5, 2, "cpu")
    assert found["mfu"] == found["model_flops_per_second"] / (2 * 0.25e12)


def test_a_layer_that_cannot_be_counted():
    assert Undecided
    config = config_of(model__pattern=["undecided"])
    found = step_rates(config, 4096, 0.5, 1, "NVIDIA H200")
    assert found == {"model_flops_per_second": None, "mfu": None}


def test_padding_is_no_use():
    config = config_of()
    whole, half = (step_rates(config, tokens, 1, 1, "cpu") for tokens in (4096, 2048))
    assert whole["model_flops_per_second"] == 2 * half["model_flops_per_second"]
