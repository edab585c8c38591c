"""Beams find the likeliest continuation of all where they are many, and never a worse one than greedy."""

import itertools

import pytest
import torch

from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import ConfigError

PROMPTS = [[3, 1, 4, 1, 5], [2, 6]]
VOCABULARY = 7


@pytest.fixture(scope="module", params=["linear", "mlp"])
def model(request):
    return tiny_model(tiny_config(request.param, vocab_size=VOCABULARY))


@torch.no_grad()
def log_probability(model, prompt, ids):
    likely = model(torch.tensor([[*prompt, *ids]])).logits.log_softmax(-1)[0]
    return sum(float(likely[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))


def ways(stops, longest):
    """All continuations: up to the first token that stops, or as long as possible."""
    for length in range(1, longest + 1):
        for ids in itertools.product(range(VOCABULARY), repeat=length):
            ends = [token in stops for token in ids]
            if not any(ends[:-1]) and (ends[-1] or length == longest):
                yield list(ids)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("stops", [(), (2, 5)])
def test_with_beams_enough_it_is_the_best_of_all(model, stops, penalty):
    options = {"max_new_tokens": 3, "stop_ids": stops, "length_penalty": penalty}
    out = model.generate(PROMPTS, beams=VOCABULARY**2, **options)
    for prompt, found, state in zip(PROMPTS, out.ids, out.states, strict=True):
        scores = {
            tuple(ids): log_probability(model, prompt, ids) / len(ids) ** penalty
            for ids in ways(stops, 3)
        }
        assert tuple(found) == max(scores, key=scores.get)
        assert state.positions == [len(prompt) + len(found)]


def test_beams_continue_like_one_forward(model):
    few = model.generate(PROMPTS, max_new_tokens=9, beams=3, length_penalty=0.0)
    for prompt, ids in zip(PROMPTS, few.ids, strict=True):
        greedy = model.generate([prompt], max_new_tokens=9).ids[0]
        assert log_probability(model, prompt, ids) >= log_probability(model, prompt, greedy) - 1e-9
    more = model.generate(None, max_new_tokens=4, beams=3, state=few.state)
    for prompt, ids, after in zip(PROMPTS, few.ids, more.ids, strict=True):
        assert model.generate([[*prompt, *ids]], max_new_tokens=4, beams=3).ids == [after]
    assert model.generate(PROMPTS, max_new_tokens=0, beams=3).ids == [[], []]


def test_one_beam_is_greedy(model):
    greedy = model.generate(PROMPTS, max_new_tokens=6).ids
    assert model.generate(PROMPTS, max_new_tokens=6, beams=1).ids == greedy


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beams": 0}, "beams = 0: expected a number from 1"),
        ({"beams": 2, "length_penalty": -1.0}, "length_penalty = -1.0"),
        ({"beams": 2, "temperature": 1.0}, "beams draw nothing. Set temperature=0"),
    ],
    ids=str,
)
def test_mistakes_are_named(model, options, words):
    with pytest.raises(ConfigError, match=words):
        model.generate(PROMPTS, max_new_tokens=1, **options)
