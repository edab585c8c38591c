"""Choices and what they take: long sweeps are continued, memory is limited, splits are checked."""

import pytest

from tests.plan.test_rates import config_of
from tttscale.errors import ConfigError
from tttscale.plan.costs import assumed
from tttscale.plan.devices import DEVICES
from tttscale.plan.options import Choice, check_split, limit_of
from tttscale.plan.planner import Target, model_of
from tttscale.scan.layout import Layout


def model(gpu="h200", **changes):
    changes = {"data__sequence_length": 2**20, "train__sequences_per_step": 16} | changes
    config = config_of(**changes)
    target = Target(1, 8, gpu, DEVICES.get(gpu), 16 * 2**30)
    return model_of(config, assumed(gpu, config), target)


@pytest.mark.parametrize("gpu", ["h200", "cpu"])
@pytest.mark.parametrize(
    ("layout", "kept"),
    [
        (Layout("striped", 1300 * 512 + 16, 512, 8, 1), 1),
        (Layout("striped", 100 * 2048, 2048, 8, 9), 40),
        (Layout("striped", 110 * 64, 64, 3, 16), 1.5),
        (Layout("striped", 14 * 8192, 8192, 3, 64), 0),
        (Layout("striped", 29 * 2048, 2048, 8, 33), 33),
        (Layout("contiguous", 55 * 64, 64, 8, 9), 63),
        (Layout("contiguous", 61 * 8192, 8192, 8, 9), 36),
        (Layout("contiguous", 43 * 8192, 8192, 8, 12), 1.5),
        (Layout("contiguous", 240 * 512, 512, 4, 2), 1),
        (Layout("contiguous", 22 * 64, 64, 4, 17), 0),
    ],
)
def test_a_long_sweep_continues_shorter_ones(layout, kept, gpu, monkeypatch):
    """Within 3 %, with remainders of rounds, many sequences and chunks kept in part."""
    of = model(gpu, model__num_hidden_layers=8)
    with monkeypatch.context() as patch:
        runs = []
        run = of._run
        patch.setattr(of, "_run", lambda *which: runs.append(which) or run(*which))
        found = of._sweep(layout, kept)
        assert {shorter for shorter, _ in runs}.isdisjoint({layout})
    whole = of._run(layout, kept)
    assert found.seconds == pytest.approx(whole.seconds, rel=0.03)
    assert found.busy == pytest.approx(whole.busy, rel=0.03)
    assert found.chain == pytest.approx(whole.chain, rel=0.03)


@pytest.mark.parametrize(
    "layout",
    [
        Layout("contiguous", 7 * 8192, 8192, 4, 9),
        Layout("contiguous", 11 * 512, 512, 8, 9),
        Layout("striped", 2 * 512, 512, 8, 16),
    ],
)
def test_a_short_sweep_of_many_sequences_is_simulated_as_it_is(layout):
    """Continued from fewer sequences these were off by up to 29 %."""
    of = model("cpu", model__num_hidden_layers=8)
    own = -(-layout.chunks // layout.ranks) * layout.sequences
    for kept in (1, own / 2, own):
        assert of._sweep(layout, kept) == of._run(layout, kept)


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
