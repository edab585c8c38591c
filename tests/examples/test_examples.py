"""The examples run and say what they promise."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(capsys, monkeypatch):
    def example(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        threads = torch.get_num_threads()
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
        return capsys.readouterr().out

    return example


def test_every_example_is_run():
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'run("{path.name}"' not in text] == []


def test_train_from_python(run):
    said = run("train_from_python.py")
    losses = [float(line.split()[2]) for line in said.splitlines()]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 1


def test_split_scan_over_two_ranks(run):
    said = run("split_scan_over_two_ranks.py").splitlines()
    assert len(said) == 5
    assert all(line.endswith("all bits equal") for line in said)


def test_load_official_weights(run):
    said = run("load_official_weights.py").splitlines()
    assert said[0] == "103,652 parameters, linear"
    assert len(said[1].split(",")) == 12 + 8


def test_load_official_weights_from_a_folder(run, tmp_path):
    from tttscale.model import TTTConfig, TTTForCausalLM

    fields = dict(vocab_size=200, hidden_size=32, num_attention_heads=2, intermediate_size=48)
    config = TTTConfig(**fields, num_hidden_layers=1, ttt_layer_type="mlp")
    TTTForCausalLM(config, seed=1).save_pretrained(tmp_path)
    said = run("load_official_weights.py", str(tmp_path)).splitlines()
    assert said[0].endswith(" parameters, mlp")
