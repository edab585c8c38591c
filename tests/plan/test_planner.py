"""`tttscale plan` as a whole: a plan of a shipped configuration, its errors, its text, JSON and plot."""

import json
import time
from pathlib import Path

import pytest

from tttscale.config import load_config
from tttscale.errors import ConfigError
from tttscale.plan.costs import assumed
from tttscale.plan.planner import plan, target_of, times_by_ranks
from tttscale.plan.text import text_of

CONFIGS = Path(__file__).parents[2] / "configs"
BIG = CONFIGS / "ttt-linear-1.3b-1Mi.yaml"


@pytest.fixture(scope="module")
def big():
    return plan(load_config(BIG), 4, 8, "h200", None)


def test_a_large_run(big):
    assert big.model.parameters == pytest.approx(1.29e9, rel=0.01)
    assert big.asked.fits
    assert big.asked.replicas == 4
    assert 0.1 < big.asked.mfu < 0.6
    assert big.flops.model_per_token == pytest.approx(7.76e9, rel=0.01)
    assert big.best.step_seconds <= big.asked.step_seconds
    by_nodes = [option.tokens_per_second for _, option in big.nodes]
    assert by_nodes == sorted(by_nodes)
    assert [nodes for nodes, _ in big.nodes] == [1, 2, 4, 8]


def test_its_json(big):
    found = json.loads(json.dumps(big.json()))
    assert found["asked"]["fits"] is True
    assert found["asked"]["memory"]["peak"] > found["asked"]["memory"]["parameters"]
    assert {row["override"] for row in found["alternatives"]} >= {"parallel.layout=contiguous"}
    assert found["smallest_change"] is None


def test_a_run_that_does_not_fit():
    found = plan(
        load_config(BIG, ["parallel.chunk_length=128Ki", "parallel.keep_chunks=1"]),
        4,
        8,
        "h200",
        None,
    )
    assert not found.asked.fits
    keys, option = found.change
    assert option.fits
    assert len(keys) == 1
    assert f"The smallest change that fits: {keys[0]}" in text_of(found)
    overrides = [*keys, "parallel.keep_chunks=1"]
    again = plan(load_config(BIG, overrides), 4, 8, "h200", None)
    assert again.asked.fits


def test_a_cpu_has_no_peak_rate():
    config = load_config(CONFIGS / "quickstart.yaml", ["data.sequence_length=16Ki"])
    found = plan(config, 1, 2, "cpu", None)
    assert found.asked.mfu is None
    assert "unknown device" in text_of(found)
    assert "holes in the heap" in text_of(found)
    told = plan(
        config.model_copy(
            update={"logging": config.logging.model_copy(update={"peak_tflops": 0.2})}
        ),
        1,
        2,
        "cpu",
        None,
    )
    assert told.asked.mfu > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 8, "h200", None), "24 ranks"),
        ((4, 8, "h900", None), "nothing is assumed of it"),
        ((4, 8, "h200", Path("/nowhere/costs.json")), "No such file"),
    ],
)
def test_errors(arguments, message):
    config = load_config(BIG, ["parallel.sequence=16"])
    with pytest.raises(ConfigError, match=message):
        plan(config, *arguments)


def test_costs_that_were_measured_say_on_what():
    config = load_config(BIG)
    costs = assumed("h200", config)
    assert target_of(1, 8, "h200", costs).device.name == "h200"
    told = type(costs)(**{**vars(costs), "facts": {"device": "NVIDIA H100 PCIe"}})
    assert target_of(1, 8, "measured", told).device.name == "h100-pcie"
    on_cpu = type(costs)(**{**vars(costs), "facts": {"device": "cpu"}})
    assert target_of(1, 8, "h200", on_cpu).device is None


def test_times_fall_with_ranks_and_grow_with_the_context():
    config = load_config(CONFIGS / "ttt-linear-125m-1Mi.yaml", ["data.sequence_length=64Ki"])
    found = times_by_ranks(plan(config, 1, 8, "h200", None).model)
    assert sorted(found) == [16384, 65536, 262144]
    for points in found.values():
        assert [ranks for ranks, _ in points] == [2**i for i in range(len(points))]
        assert points[3][1] < points[0][1]
    assert found[262144][0][1] > 3 * found[65536][0][1]


def test_the_plot_costs_little():
    """Some 0.8 s of CPU; with two choices for each of 30 points it was more than 4 s."""
    of = plan(load_config(BIG), 1, 8, "h200", None).model
    began = time.process_time()
    found = times_by_ranks(of)
    assert time.process_time() - began < 2
    assert all(len(points) == 9 for points in found.values())
