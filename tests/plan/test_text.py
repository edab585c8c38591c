"""A plan as text: what it says of a run that fits, and of one that does not."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tttscale.config import load_config
from tttscale.plan.planner import plan
from tttscale.plan.text import describe, text_of

BIG = Path(__file__).parents[2] / "configs/ttt-linear-1.3b-1Mi.yaml"


@pytest.fixture(scope="module")
def big():
    return plan(load_config(BIG), 4, 8, "h200", None)


def test_its_text(big):
    text = text_of(big)
    for part in (
        "1,285,639,296 parameters",
        "It fits: ",
        "model FLOPs",
        "largest useful parallel.sequence",
        "Costs: assumed for h200",
        describe(big.asked),
    ):
        assert part in text
    assert max(map(len, text.splitlines()[:-1])) < 160


def test_the_parts_of_a_step_add_up(big):
    line = next(line for line in text_of(big).splitlines() if line.startswith("  step "))
    whole, *parts = [float(number) for number in re.findall(r"([\d.e-]+) s\b", line)]
    assert len(parts) == 3
    assert "overhead" in line
    assert sum(parts) == pytest.approx(whole, rel=0.003)


def test_idle_ranks_have_names_of_their_own(big):
    """metrics.jsonl's bubble_fraction and exposed_comm_seconds mean something else."""
    assert "  ranks idle  " in text_of(big)
    assert "bubble" not in text_of(big)
    found = big.json()["asked"]
    assert {"sweeps_idle_fraction", "exposed_messages_seconds"} <= set(found)
    assert not {"bubble_fraction", "exposed_comm_seconds"} & set(found)


def test_a_choice_in_words(big):
    assert describe(big.asked).startswith(
        "4 replica(s) x 8 sequence rank(s), striped, chunks of 8,192, "
    )
    assert describe(big.asked).endswith("of 16 kept, ZeRO 1")


def test_nothing_that_fits(big):
    tight = replace(big.asked, limit_bytes=1)
    text = text_of(replace(big, asked=tight, change=None, best=None, alternatives=[]))
    assert "It does not fit: " in text
    assert "No change of the parallel keys or ZeRO fits" in text
    assert "Best found" not in text
