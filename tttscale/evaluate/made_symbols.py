"""Tasks `recall`, `copy` and `state-tracking`: answers inside a sequence, in symbols of one token each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import ConfigError
from tttscale.evaluate.made_text import Haystack, MadeSequence, symbols

KINDS = {
    "recall": ("recall",),
    "copy": ("copy",),
    "state-tracking": ("parity", "s5"),
}
"""By task: what is measured, each for itself."""
TITLES = {
    "recall": "recall of 16 keys",
    "copy": "copy of half the sequence",
    "state-tracking": "state tracking: parity, and five things that change places (S5)",
}
_PAIRS = 16
_LOWER, _UPPER, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
_MARKS = "=;"


@dataclass(frozen=True)
class Alphabet:
    """Tokens of single characters."""

    lower: np.ndarray
    upper: np.ndarray
    digits: np.ndarray
    equals: int
    ends: int
    bos: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Alphabet":
        """Find them.

        Raises:
            DataError: the tokenizer has none.
        """
        every = symbols(tokenizer, _LOWER + _UPPER + _DIGITS + _MARKS)
        lower, upper, digits, marks = np.split(every, [26, 52, 62])
        return cls(lower, upper, digits, int(marks[0]), int(marks[1]), tokenizer.bos_id)

    def choices(self, kind: str) -> np.ndarray:
        """Tokens that may be an answer."""
        return {
            "recall": self.upper,
            "copy": self.lower,
            "parity": self.digits[:2],
            "s5": self.lower[:5],
        }[kind]


def make_sequence(
    kind: str, alphabet: Alphabet, hay: Haystack, length_tokens: int, rng: np.random.Generator
) -> MadeSequence:
    """Write one sample, of exactly so many tokens; the last answer may end one token after it.

    Args:
        kind: of `KINDS`.
        alphabet: of the model's tokenizer.
        hay: the text between keys, for recall.
        length_tokens: of the sequence.
        rng: the only source of random numbers.

    Raises:
        ConfigError: the length is too short for it.
    """
    if length_tokens < (least := _LEAST[kind]):
        raise ConfigError(
            f"--lengths {length_tokens}: too short for {kind}, which takes {least} tokens or more. "
            "Give longer ones."
        )
    texts, asked = _MAKERS[kind](alphabet, length_tokens, rng)
    if alphabet.bos is not None:
        texts = [(0, np.array([alphabet.bos])), *texts]
    return MadeSequence(hay, texts, np.array(asked))


_Made = tuple[list[tuple[int, np.ndarray]], Sequence[int]]


def _recall(of: Alphabet, length: int, rng: np.random.Generator) -> _Made:
    """Pairs such as `ab=C;`, spread over the text; at its end each key again, with its value asked for."""
    codes = rng.choice(26 * 26, _PAIRS, replace=False)
    values = of.upper[rng.integers(0, 26, _PAIRS)]
    pairs = [
        np.array([of.lower[code // 26], of.lower[code % 26], of.equals, value, of.ends])
        for code, value in zip(codes, values, strict=True)
    ]
    size = len(pairs[0])
    end = length - _PAIRS * size + 1  # the last `;` is not read
    room = (end - 1) / _PAIRS
    texts = [(1 + int(n * room), pair) for n, pair in enumerate(pairs)]
    order = rng.permutation(_PAIRS)
    texts += [(end + n * size, pairs[pair]) for n, pair in enumerate(order)]
    return texts, [end + n * size + 3 for n in range(_PAIRS)]


def _copy(of: Alphabet, length: int, rng: np.random.Generator) -> _Made:
    """Random letters, `;`, and the same letters, each of them asked for."""
    count = (length - 1) // 2
    word = of.lower[rng.integers(0, 26, count)]
    end = length + 1 - count
    text = np.concatenate([word, [of.ends], word])
    return [(end - count - 1, text)], range(end, end + count)


def _parity(of: Alphabet, length: int, rng: np.random.Generator) -> _Made:
    """Random bits, `=`, and whether an odd number of them is 1."""
    bits = rng.integers(0, 2, length - 2)
    text = np.concatenate([of.digits[bits], [of.equals], [of.digits[bits.sum() % 2]]])
    return [(1, text)], [length]


def _s5(of: Alphabet, length: int, rng: np.random.Generator) -> _Made:
    """Pairs of places such as `25;`, whose things change places; then a place, `=`, and what is there.

    One thing is asked for: of several the last ones follow from the others.
    """
    things, text = np.arange(5), []
    for _ in range((length - 3) // 3):
        a, b = rng.choice(5, 2, replace=False)
        things[[a, b]] = things[[b, a]]
        text += [of.digits[a + 1], of.digits[b + 1], of.ends]
    place = int(rng.integers(0, 5))
    text += [of.digits[place + 1], of.equals, of.lower[things[place]]]
    return [(length + 1 - len(text), np.array(text))], [length]


_MAKERS = {"recall": _recall, "copy": _copy, "parity": _parity, "s5": _s5}
_LEAST = {"recall": 1 + 10 * _PAIRS, "copy": 3, "parity": 3, "s5": 6}
