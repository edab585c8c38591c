"""Choices and what they take: long sweeps are continued, memory is limited, splits are checked."""

import pytest

from tests.plan.test_rates import config_of
from tttscale.errors import ConfigError
from tttscale.plan import options
from tttscale.plan.costs import assumed
from tttscale.plan.devices import DEVICES
from tttscale.plan.options import Choice, check_split, limit_of
from tttscale.plan.planner import Target, model_of


def model(gpu="h200", **changes):
    changes = {"data__sequence_length": 2**20, "train__sequences_per_step": 16} | changes
    config = config_of(**changes)
    target = Target(1, 8, gpu, DEVICES.get(gpu), 16 * 2**30)
    return model_of(config, assumed(gpu, config), target)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(8, 8192, "striped", 1, 1),
        Choice(8, 4096, "striped", 5, 1),
        Choice(2, 8192, "striped", 1, 1),
        Choice(1, 16384, "striped", 64, 1),
        Choice(4, 16384, "contiguous", 2, 1),
    ],
)
def test_a_long_sweep_continues_shorter_ones(choice, monkeypatch):
    monkeypatch.setattr(options, "_MOST_LAYERS", 64)
    short = model().price(choice, 8)
    monkeypatch.setattr(options, "_MOST_LAYERS", 10**9)
    monkeypatch.setattr(options, "_MOST_SEQUENCES", 10**9)
    whole = model().price(choice, 8)
    assert short.sweep_seconds == pytest.approx(whole.sweep_seconds, rel=0.03)
    assert short.useful_ranks == pytest.approx(whole.useful_ranks, abs=1)


def test_the_estimate_is_near_the_simulation():
    of = model()
    for choice in (Choice(8, 8192, "striped", 1, 1), Choice(2, 4096, "striped", 4, 1)):
        assert of.estimate(choice, 8) == pytest.approx(of.price(choice, 8).step_seconds, rel=0.1)


def test_figures_agree_with_each_other():
    option = model().price(Choice(4, 8192, "striped", 2, 1), 8)
    assert option.replicas == 2
    assert option.own_chunks == 128 // 4 * 8
    assert option.tokens_per_second == 16 * 2**20 / option.step_seconds
    assert option.step_seconds == option.sweep_seconds + sum(option.parts.values())
    assert 0 <= option.sweeps_idle_fraction < 1
    assert option.fits == (option.memory.peak <= option.limit_bytes)


def test_a_choice_says_which_keys_lead_to_it():
    before, after = Choice(8, 8192, "striped", 1, 1), Choice(4, 4096, "striped", 2, 3)
    assert after.keys(before) == [
        "parallel.sequence=4",
        "parallel.chunk_length=4096",
        "zero.stage=3",
    ]


def test_limits():
    assert limit_of(DEVICES["h200"], 0, 8) == int(143_771 * 2**20 * 0.95)
    assert limit_of(None, 16 * 2**30, 2) == int(8 * 2**30 * 0.95)


def test_a_run_that_cannot_be_split():
    config = config_of(
        parallel__sequence=8, train__sequences_per_step=4, data__sequence_length=2**20
    )
    check_split(config, 4, 8)
    with pytest.raises(ConfigError, match=r"12 ranks cannot be divided .* parallel.sequence = 8"):
        check_split(config, 2, 6)
    with pytest.raises(ConfigError, match=r"are 8 replicas .* train.sequences_per_step = 4"):
        check_split(config, 8, 8)
    with pytest.raises(ConfigError, match=r"Set parallel\.sequence to one of 16, 32, 64"):
        check_split(config, 8, 8)
