"""`tttscale rehearse`: what it prints of a small run, and what it refuses."""

import re

import pytest

from tests.train.small import small_config
from tttscale.errors import ConfigError
from tttscale.plan import rehearsal_run
from tttscale.plan.costs import assumed

CONFIG = small_config()


def test_it_agrees_with_the_simulator_and_says_so(tmp_path):
    out = tmp_path / "trace.json"
    said = rehearsal_run.run(CONFIG, assumed("cpu", CONFIG), ranks=2, sequences=2, out=out)
    assert said.startswith(
        "2 ranks, 2 x 44 tokens in 6 striped chunks of 8; kept chunks: 1 (keep_ch"
    )
    step, simulated = (
        float(re.search(rf"{name} +([\d.]+) s", said)[1]) for name in ("step", "simulated")
    )
    assert step == pytest.approx(simulated, rel=1e-3)
    assert "rehearsed / simulated = 1.0" in said or "rehearsed / simulated = 0.99" in said
    shares = [float(x) for x in re.findall(r"([\d.]+) %", said.split("time")[-1].splitlines()[0])]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert out.stat().st_size > 1000


def test_one_rank_is_never_starved():
    said = rehearsal_run.run(CONFIG, assumed("cpu", CONFIG), ranks=1)
    assert "efficiency  100.0 %" in said
    assert "starved most" not in said


def test_a_rehearsal_of_hours_is_refused(monkeypatch):
    monkeypatch.setattr(rehearsal_run, "_MOST_TASKS", 11)
    with pytest.raises(
        ConfigError, match=r"1 x 6 chunks of 2 layers are 12 layers .* at most 11 are"
    ):
        rehearsal_run.run(CONFIG, assumed("cpu", CONFIG))
