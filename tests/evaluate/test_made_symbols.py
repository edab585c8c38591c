"""What the made sequences ask for is what a solver finds in them."""

import numpy as np
import pytest

from tttscale.data import ByteTokenizer
from tttscale.errors import ConfigError
from tttscale.evaluate.made_symbols import KINDS, Alphabet, make_sequence
from tttscale.evaluate.made_text import Repeated

ALPHABET = Alphabet.of(ByteTokenizer())
HAY = Repeated(np.array([45]))


def made(kind, length, seed=0):
    """Text of the sequence and one token more, and the places that are asked for."""
    sequence = make_sequence(kind, ALPHABET, HAY, length, np.random.default_rng(seed))
    chunk = sequence.chunk(0, length)
    assert len(chunk.ids) == length
    assert chunk.ids[0] == 256
    asked = sequence.asked.tolist()
    assert asked == sorted(asked)
    labels = chunk.labels
    assert (np.flatnonzero(labels != -100) + 1).tolist() == asked
    choices = ALPHABET.choices(kind)
    assert set(labels[labels != -100].tolist()) <= set(choices.tolist())
    ids = [*chunk.ids.tolist()[1:], int(labels[-1]) if labels[-1] >= 0 else 45]
    return "?" + bytes(ids).decode(), asked


@pytest.mark.parametrize("length", [161, 200, 1024])
def test_recall(length):
    text, asked = made("recall", length)
    assert len(asked) == 16
    first = text.index(text[asked[0] - 3 : asked[0]])
    assert first < asked[0] - 3
    for at in asked:
        key = text[at - 3 : at]
        assert key[2] == "="
        defined = text.index(key)
        assert defined < at - 3
        assert text[defined + 3] == text[at]
        assert text.count(key) == 2


@pytest.mark.parametrize("length", [3, 16, 257])
def test_copy(length):
    text, asked = made("copy", length)
    word = text[asked[0] :]
    assert len(word) == len(asked) == (length - 1) // 2
    assert text.endswith(f"{word};{word}")


@pytest.mark.parametrize("length", [3, 16, 257])
def test_parity(length):
    text, (at,) = made("parity", length)
    bits = text[1 : at - 1]
    assert len(bits) == length - 2
    assert text[at - 1] == "="
    assert int(text[at]) == bits.count("1") % 2


@pytest.mark.parametrize("length", [6, 7, 64, 257])
def test_s5(length):
    text, (at,) = made("s5", length)
    swaps, place = text[: at - 2].lstrip("?-"), int(text[at - 2])
    things = list("abcde")
    for pair in swaps.rstrip(";").split(";"):
        a, b = (int(place) - 1 for place in pair)
        things[a], things[b] = things[b], things[a]
    assert text[at - 1] == "="
    assert text[at] == things[place - 1]


@pytest.mark.parametrize("kind", [kind for kinds in KINDS.values() for kind in kinds])
def test_seeds_decide_and_short_ones_are_refused(kind):
    assert made(kind, 256, 1) == made(kind, 256, 1)
    assert made(kind, 256, 1) != made(kind, 256, 2)
    with pytest.raises(ConfigError, match=f"too short for {kind}"):
        make_sequence(kind, ALPHABET, HAY, 2, np.random.default_rng(0))
