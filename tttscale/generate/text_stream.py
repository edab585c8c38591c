"""Text out of tokens while they come: no half characters, and nothing beyond a stop string."""

from collections.abc import Sequence

from tttscale.data.tokenizers.tokenizer import Tokenizer

_HALF = "\N{REPLACEMENT CHARACTER}"


_MOST_HALVES = 32
"""Half characters that are held back: some decoders write every byte of a run as one until it is whole."""
_MOST_IDS = 64
"""Tokens without a whole character after which the first of them are let go."""


class Pieces:
    """The text of each token as soon as its characters are whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        """Tokens whose text was given out last: some decoders treat the first token in another way."""
        self._ids: list[int] = []
        """Tokens whose text was not given out yet, or not all of it."""
        self._given = 0
        """Characters of their text that were."""

    def add(self, token: int) -> str:
        """Take a token; return the text that is now certain."""
        self._ids.append(token)
        text = self._new()
        halves = len(text) - len(text.rstrip(_HALF))  # perhaps a character whose other bytes follow
        given = max(self._given, len(text) - min(halves, _MOST_HALVES))
        piece, self._given = text[self._given : given], given
        if text and not halves:
            self._before, self._ids, self._given = self._ids, [], 0
        elif len(self._ids) > _MOST_IDS:
            self._let_go()
        return piece

    def rest(self) -> str:
        """Return what was held back, at the end."""
        text = self._new()[self._given :]
        self._ids, self._given = [], 0
        return text

    def _new(self) -> str:
        return self._text(self._before, self._ids)

    def _text(self, before: list[int], ids: list[int]) -> str:
        """Text of tokens that follow others."""
        return self._tokenizer.decode([*before, *ids])[len(self._tokenizer.decode(before)) :]

    def _let_go(self) -> None:
        """Forget the first tokens, if the text of the others stays what it is without them."""
        text, half = self._new(), len(self._ids) // 2
        for count in range(half, half + 4):  # at one of them no character is cut
            first, rest = self._ids[:count], self._ids[count:]
            gone = self._text(self._before, first)
            before = first if gone else self._before
            if len(gone) <= self._given and gone + self._text(before, rest) == text:
                self._before, self._ids, self._given = before, rest, self._given - len(gone)
                return


class TextStream:
    """A reply's text up to its first stop string."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._pieces, self._stops, self._held = Pieces(tokenizer), stops, ""
        self.is_stopped = False
        """A stop string has come; it is not part of the text."""

    def add(self, token: int) -> str:
        """Take a token; return the text that is now certain to belong to the reply."""
        return self._take(self._pieces.add(token), last=False)

    def rest(self) -> str:
        """Return what was held back, at the end."""
        return self._take(self._pieces.rest(), last=True)

    def _take(self, text: str, last: bool) -> str:
        if self.is_stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            certain = min(found)
        else:
            certain = len(self._held) - (0 if last else self._begun())
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def _begun(self) -> int:
        """Characters at the end with which a stop string may begin."""
        longest = max(map(len, self._stops), default=1) - 1
        for count in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stops):
                return count
        return 0
