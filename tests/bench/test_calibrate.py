"""Costs are measured, written, and read again by what computes with them."""

import pytest

from tests.ranks import run_ranks, values
from tttscale.bench.calibrate import calibrate
from tttscale.config import Config
from tttscale.errors import ConfigError
from tttscale.plan.chosen_costs import chosen_costs
from tttscale.plan.costs import load
from tttscale.scan.timeline import Activity, Run


def config(precision="fp32", chunk=256, **model):
    shape = {
        **{"vocab_size": 67, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2},
        **{"num_hidden_layers": 2, "share_qk": True, "use_gate": True, "pre_conv": True},
        "pattern": ["ttt-linear", "ttt-mlp"],
    }
    return Config.model_validate(
        {
            "run": {"name": "x"},
            "model": shape | model,
            "data": {"store": "x", "sequence_length": 4096},
            "parallel": {"sequence": 2, "chunk_length": chunk, "threads": 1},
            "train": {"steps": 1, "precision": precision, "device": "cpu", "compile": False},
        }
    )


def measure(ranks, out, precision):
    return calibrate(config(precision), out, repeats=2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_costs_are_measured(tmp_path, precision):
    out = tmp_path / "costs.json"
    (table,) = values(run_ranks(measure, 1, out, precision))
    costs = load(out)
    assert "CPU time of one thread, chunks of 256, 128, 64 tokens" in costs.source
    assert "| ttt-mlp | alone.backward.advance |" in table
    assert costs.kinds == ("ttt-linear", "ttt-mlp")
    for run in Run:
        for activity in (Activity.PROJECT, Activity.ADVANCE, Activity.READOUT, Activity.FINISH):
            for alone in (False, True):
                assert 1e-6 < costs.seconds(run, activity, 256, 0, alone) < 10
    assert costs.seconds(Run.FORWARD, Activity.SEND, 256, 0) > 0
    assert costs.seconds(Run.FORWARD, Activity.HEAD, 256, -1) > 0  # of a chunk that is kept
    for run in ("forward", "backward"):
        shares = costs.splits[run]
        assert shares.keys() == {"pre_conv", "qk_conv"}
        assert (shares["pre_conv"] < shares["qk_conv"]) == (run == "forward")
    assert 0 < costs.step_seconds.optimizer < 1e-3
    assert costs.facts["threads"] == 1
    same = config(precision, num_hidden_layers=5)
    assert chosen_costs("measured", out, same).kinds[4] == "ttt-linear"


def measure_beside(ranks, out):
    return calibrate(config(), out, repeats=1, at_once=2)


def test_costs_beside_another_rank_say_so(tmp_path):
    out = tmp_path / "costs.json"
    values(run_ranks(measure_beside, 1, out))
    costs = load(out)
    assert "CPU time of one thread, 2 ranks at once, chunks" in costs.source
    assert costs.facts["at_once"] == 2


def test_costs_of_another_run_are_refused(tmp_path):
    out = tmp_path / "costs.json"
    values(run_ranks(measure, 1, out, "fp32"))
    with pytest.raises(ConfigError, match=r"model.hidden_size = 32, and the run has 64"):
        chosen_costs("measured", out, config(hidden_size=64))
    with pytest.raises(ConfigError, match=r"train.precision = fp32, and the run has bf16"):
        chosen_costs("measured", out, config("bf16"))
    linear = config(pattern=["ttt-linear"])
    assert chosen_costs("measured", out, linear).kinds == ("ttt-linear",) * 2
    with pytest.raises(ConfigError, match=r"no costs of a_file:Layer"):
        chosen_costs("measured", out, config(pattern=["a_file:Layer"]))


def test_a_chunk_of_one_mini_batch_shows_no_line(tmp_path):
    with pytest.raises(ConfigError, match="set it to 4 mini-batches or more"):
        calibrate(config(chunk=16), tmp_path / "costs.json", 1)
