"""Text out of tokens while they come: no half characters, and nothing beyond a stop string."""

from collections.abc import Sequence

from tttscale.data.tokenizers.tokenizer import Tokenizer

_HALF = "\N{REPLACEMENT CHARACTER}"


class Pieces:
    """The text of each token as soon as its characters are whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        """Tokens whose text was given out last: some decoders treat the first token in another way."""
        self._ids: list[int] = []
        """Tokens whose text was not given out yet."""

    def add(self, token: int) -> str:
        """Take a token; return the text that is now certain."""
        self._ids.append(token)
        text = self._new()
        if text.endswith(_HALF):  # perhaps a character whose other bytes follow
            return ""
        if text:
            self._before, self._ids = self._ids, []
        return text

    def rest(self) -> str:
        """Return what was held back, at the end."""
        text, self._ids = self._new(), []
        return text

    def _new(self) -> str:
        before = self._tokenizer.decode(self._before)
        return self._tokenizer.decode([*self._before, *self._ids])[len(before) :]


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
