"""Sequences that are made from a seed: a haystack of any length, with texts written over it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tttscale.data.store.protocols import TokenSplit
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.data.windows.window import IGNORED_LABEL, TokenChunk
from tttscale.errors import DataError

_FILLER = (
    "The river runs down to the sea. The wind moves over the grass. A bird sits on the old roof. "
    "The sun goes down behind the hill. "
)


class Haystack(Protocol):
    """Tokens without an end."""

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end), int64."""
        ...


@dataclass(frozen=True)
class Repeated:
    """The same sentences again and again."""

    ids: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Repeated":
        """The usual sentences."""
        return cls(encode(tokenizer, _FILLER))

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end), int64."""
        return np.take(self.ids, np.arange(begin, end), mode="wrap")


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a store's text."""

    split: TokenSplit
    first: int

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end), int64."""
        return self.split.read(self.first + begin, self.first + end).astype(np.int64)


@dataclass(frozen=True)
class MadeSequence:
    """A haystack, texts written over it, and the tokens of it that are asked for."""

    hay: Haystack
    texts: Sequence[tuple[int, np.ndarray]]
    """Places, and what stands there; they do not overlap."""
    asked: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Positions of tokens that the model should know from those before, ascending; none is at 0."""

    def chunk(self, begin: int, end: int) -> TokenChunk:
        """Positions [begin, end), with labels where the next token is asked for."""
        ids = self.hay.read(begin, end + 1).copy()
        for at, text in self.texts:
            first, last = max(at, begin), min(at + len(text), end + 1)
            if first < last:
                ids[first - begin : last - begin] = text[first - at : last - at]
        labels = np.full(end - begin, IGNORED_LABEL, np.int64)
        first, last = np.searchsorted(self.asked, [begin + 1, end + 1])
        wanted = self.asked[first:last] - begin
        labels[wanted - 1] = ids[wanted]
        return TokenChunk(ids[:-1], labels)


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Token ids of a text, int64."""
    return np.asarray(tokenizer.encode(text), np.int64)


def encode_answers(
    tokenizer: Tokenizer, question: str, answers: Sequence[str]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Encode a question and each answer after it, as one text each.

    Returns:
        The tokens that all have in common, and what follows them for each answer.
    """
    whole = [encode(tokenizer, question + answer).tolist() for answer in answers]
    common, alone = 0, encode(tokenizer, question).tolist()
    for tokens in zip(alone, *whole, strict=False):
        if len({*tokens}) > 1:
            break
        common += 1
    return np.array(alone[:common], np.int64), [np.array(w[common:], np.int64) for w in whole]


def symbols(tokenizer: Tokenizer, characters: str) -> np.ndarray:
    """The token of each character, int64.

    Raises:
        DataError: one has no token of its own.
    """
    found = [encode(tokenizer, character) for character in characters]
    bad = [c for c, ids in zip(characters, found, strict=True) if len(ids) != 1]
    if bad or len({int(ids[0]) for ids in found}) < len(characters):
        what = f"no single token for {bad[0]!r}" if bad else "one token for several letters"
        raise DataError(
            f"the tokenizer {tokenizer.name} has {what}, which the tasks recall, copy and state-tracking "
            "need. Measure loss, passkey or needle."
        )
    return np.array([int(ids[0]) for ids in found], np.int64)
