"""A rank that is slow for long is named, once; ranks that are alike never are."""

import random
from dataclasses import dataclass

import pytest
import torch

from tttscale.observe.timeline import Held
from tttscale.train.figures import step_figures
from tttscale.train.stragglers import Stragglers


@dataclass
class Ranks:
    """A mesh of which only the hosts are asked."""

    world_size: int
    asked: int = 0

    def gather_texts(self, text):
        self.asked += 1
        return [f"host-{rank // 2}" for rank in range(self.world_size)]


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def records(steps, ranks, seconds):
    """Records as a trainer makes them; `seconds(step, rank)` is what a rank computes."""
    for step in range(1, steps + 1):
        rows = torch.zeros(ranks, 4 + len(Held._fields), dtype=torch.float64)
        for rank in range(ranks):
            compute = seconds(step, rank)
            rows[rank, 0] = rows[rank, -2] = compute
            rows[rank, -1] = 1000
        yield step_figures(rows, tokens=1.0) | {"step": step}


def lines(found, ranks=4, step_seconds=1.0):
    clock = Clock()
    stragglers = Stragglers(Ranks(ranks), clock)
    said = {}
    for record in found:
        clock.seconds += step_seconds
        if line := stragglers.line(record):
            said[record["step"]] = line
    return said


def test_a_slow_rank_is_named_within_twenty_steps_and_once_an_hour():
    noise = random.Random(1)
    slow = records(3700, 4, lambda _, r: (1.5 if r == 3 else 1.0) * noise.uniform(0.97, 1.03))
    said = lines(slow)
    assert list(said) == [20, 3620]
    assert "rank 3 on host host-1 needs 1.5 times as long as the others" in said[20]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ranks", [2, 4, 16])
def test_uniform_runs_name_nobody(seed, ranks):
    """Noise of a tenth, and now and then a rank that is held up for a few steps."""
    noise = random.Random(seed)
    late = {}

    def seconds(step, rank):
        if noise.random() < 0.002:
            late[rank] = step + noise.randrange(15)
        held_up = 3.0 if late.get(rank, 0) >= step else 1.0
        return held_up * (10.0 if step == 1 else 1.0) * noise.gauss(1.0, 0.1)

    assert lines(records(1000, ranks, seconds), ranks) == {}


def test_a_little_slower_for_ever_is_no_fault():
    assert lines(records(200, 4, lambda _, rank: 1.25 if rank == 1 else 1.0)) == {}


def test_another_rank_or_a_good_step_begins_the_count_again():
    swapped = records(400, 4, lambda step, rank: 1.5 if rank == step // 15 % 4 else 1.0)
    assert lines(swapped) == {}
    paused = records(400, 4, lambda step, rank: 1.5 if rank == 1 and step % 20 else 1.0)
    assert lines(paused) == {}


def test_two_slow_ranks_are_named_each():
    def seconds(step, rank):
        return 2.0 if rank == (1 if step <= 30 else 2) else 1.0

    said = lines(records(60, 4, seconds))
    assert [(step, line[:14]) for step, line in said.items()] == [
        (20, "WARNING: rank "),
        (50, "WARNING: rank "),
    ]
    assert "rank 1 on host host-0" in said[20]
    assert "rank 2 on host host-1" in said[50]


def test_records_without_the_figures_are_nothing():
    assert lines([{"step": n} for n in range(1, 50)], ranks=1) == {}
