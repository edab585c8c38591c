"""Choosing tokens: the filters in their order, and draws that depend on the row and the seed alone."""

import math

import pytest
import torch

from tests.trained import byte_model
from tttscale.errors import ConfigError, NumericsError
from tttscale.model.beams import Beams, search
from tttscale.model.decoder import Decoder
from tttscale.model.sampling import Sampler, Sampling, filtered

LIKELY = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
LOGITS = LIKELY.log()


def kept(**options):
    return filtered(LOGITS, Sampling(**{"temperature": 1.0, **options})).isfinite().tolist()


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, 5),
        ({"top_k": 2}, 2),
        ({"top_k": 99}, 5),
        ({"top_p": 0.65}, 2),
        ({"top_p": 0.75}, 3),
        ({"top_p": 1e-9}, 1),
        ({"top_p": 1.0}, 5),
        ({"min_p": 0.2}, 4),
        ({"min_p": 0.3}, 3),
        ({"min_p": 1.0}, 1),
        ({"top_k": 3, "top_p": 0.8}, 2),  # of what top_k has left, 0.4 and 0.3 of 0.85 are 0.82
        ({"temperature": 0.5, "top_p": 0.65}, 2),
        ({"temperature": 0.25, "min_p": 0.2}, 2),  # the temperature comes first
        ({"temperature": 4.0, "top_p": 0.65}, 3),
    ],
    ids=str,
)
def test_filters(options, number):
    assert kept(**options) == [True] * number + [False] * (5 - number)


def test_tokens_in_any_order_and_ties():
    order = torch.tensor([3, 0, 4, 1, 2])
    found = filtered(LOGITS[order], Sampling(1.0, top_p=0.75)).isfinite()
    assert found.tolist() == [bool(i < 3) for i in order]
    ties = filtered(torch.zeros(4), Sampling(1.0, top_k=2))
    assert ties.isfinite().all()  # as transformers has it


def test_greedy_takes_the_most_likely_whatever_the_filters():
    sampler = Sampler(Sampling(0.0, top_k=3, min_p=0.9), 2)
    assert sampler.draw(torch.stack([LOGITS, LOGITS.flip(0)]), [0, 1]) == [0, 4]


def test_draws_follow_the_probabilities():
    sampler = Sampler(Sampling(1.0, seed=3), 1)
    drawn = torch.tensor([sampler.draw(LOGITS[None], [0])[0] for _ in range(4000)])
    found = drawn.bincount(minlength=5) / 4000
    for i, p in enumerate(LIKELY.tolist()):
        assert abs(found[i] - p) < 5 * math.sqrt(p * (1 - p) / 4000)


@pytest.mark.parametrize("temperature", [1e-9, 1e-30, 1e-38, 1e-45, 5e-324])
def test_the_coldest_temperatures_take_the_most_likely(temperature):
    sampler = Sampler(Sampling(temperature, top_k=4, top_p=0.9, min_p=0.1), 1)
    assert sampler.draw(100 * LOGITS.flip(0)[None], [0]) == [4]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    logits = LOGITS.clone()[None]
    logits[0, 2] = bad
    for temperature in (0.0, 1.0):
        with pytest.raises(NumericsError, match=r"not finite.*--dtype float32"):
            Sampler(Sampling(temperature), 1).draw(logits, [0])
    with pytest.raises(NumericsError, match="not finite"):
        search(Decoder(byte_model()), logits, Beams(2), 3)


def test_a_row_draws_the_same_with_and_without_others():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, alone = Sampler(Sampling(1.0, seed=7), 3), Sampler(Sampling(1.0, seed=7), 3)
    torch.manual_seed(1)
    a = [together.draw(logits, [0, 1, 2]) for _ in range(20)]
    before = torch.get_rng_state()
    b = [alone.draw(logits[2:], [2])[0] for _ in range(20)]
    assert [of[2] for of in a] == b
    assert torch.equal(before, torch.get_rng_state())  # torch's own generator is left alone
    assert a != [Sampler(Sampling(1.0, seed=8), 3).draw(logits, [0, 1, 2]) for _ in range(20)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, r"temperature \(--temperature\) = -1.0: expected a number from 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": 0}, r"top_k \(--top-k\) = 0: expected a number from 1"),
        ({"top_p": 0.0}, r"top_p \(--top-p\) = 0.0: expected a share of more than 0"),
        ({"top_p": 1.5}, "at most 1"),
        ({"min_p": -0.1}, r"min_p \(--min-p\) = -0.1"),
        ({"seed": -1}, "seed"),
    ],
)
def test_values_out_of_range(options, words):
    with pytest.raises(ConfigError, match=words):
        Sampling(**options)
