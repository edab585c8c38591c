"""Splits in memory, and the layout that lets every document begin on a mini-batch border."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class TokenSplit(Protocol):
    """What windows ask of a split, on disk or in memory."""

    num_tokens: int
    text_bytes: int
    filler: int
    """The id to put at padded positions."""

    @property
    def document_starts(self) -> np.ndarray:
        """Offset of each document's first token, uint64 [documents], strictly increasing."""
        ...

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end)."""
        ...


class ArraySplit:
    """A split in memory.

    Args:
        documents: Token ids of each document, none of them empty.
        filler: The id to put at padded positions.
        text_bytes: Bytes of the text behind the documents.
    """

    def __init__(
        self, documents: Sequence[Sequence[int] | np.ndarray], filler: int = 0, text_bytes: int = 0
    ) -> None:
        lengths = [len(document) for document in documents]
        assert all(lengths), "a document is empty"
        self._tokens = np.concatenate([np.asarray(d, np.int64) for d in documents])
        self.document_starts = (np.cumsum(lengths) - lengths).astype(np.uint64)
        self.num_tokens = len(self._tokens)
        self.filler = filler
        self.text_bytes = text_bytes

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end)."""
        return self._tokens[begin:end].copy()


class PaddedLayout:
    """The padded stream: every document moved up to the next mini-batch border of its window.

    A border is a multiple of `mini_batch_tokens` inside the window, or the window's end. So padding
    never runs over a window's end, and position 0 of every window is a token.

    Args:
        starts: Raw offset of each document, [documents].
        num_tokens: Raw tokens in all.
        sequence_tokens: Positions per window.
        mini_batch_tokens: Positions per inner mini-batch.
    """

    def __init__(
        self, starts: np.ndarray, num_tokens: int, sequence_tokens: int, mini_batch_tokens: int
    ) -> None:
        self.raw = np.append(starts.astype(np.int64), num_tokens)
        lengths = np.diff(self.raw)
        if sequence_tokens % mini_batch_tokens:
            self.padded = _border_by_border(lengths, sequence_tokens, mini_batch_tokens)
        else:
            blocks = -(-lengths // mini_batch_tokens)
            self.padded = (np.cumsum(blocks) - blocks) * mini_batch_tokens
        self.num_positions = int(self.padded[-1] + lengths[-1]) if len(lengths) else 0

    def locate(self, begin: int, end: int) -> tuple[int, np.ndarray, np.ndarray]:
        """What lies at positions [begin, end) of the padded stream, which is one raw range.

        Returns:
            The first raw token; for each token of the range the position after `begin` where it
            goes, int64 [n]; and whether it is the last of its document, bool [n].
        """
        first = int(np.searchsorted(self.padded, begin, "right")) - 1
        last = int(np.searchsorted(self.padded, end, "left"))
        begins, padded, ends = (
            self.raw[first:last],
            self.padded[first:last],
            self.raw[1:][first:last],
        )
        # Raw tokens of each document that fall into the range; none where only its padding does.
        lower = np.minimum(begins + np.maximum(begin - padded, 0), ends)
        upper = np.minimum(begins + (end - padded), ends)
        counts = upper - lower
        raw = np.arange(lower[0], upper[-1])
        places = raw + np.repeat(padded - begins, counts) - begin
        return int(lower[0]), places, raw + 1 == np.repeat(ends, counts)

    def starts_between(self, begin: int, end: int) -> np.ndarray:
        """Positions in [begin, end) where a document begins, counted from `begin`."""
        low, high = np.searchsorted(self.padded, [begin, end])
        return self.padded[low:high] - begin


def _border_by_border(lengths: np.ndarray, window: int, mini_batch: int) -> np.ndarray:
    """Padded starts for windows that are no multiple of a mini-batch: each depends on the last."""
    padded, position = np.zeros(len(lengths), np.int64), 0
    for index, length in enumerate(lengths.tolist()):
        padded[index] = position
        in_window = (position + length) % window
        border = min(window, -(-in_window // mini_batch) * mini_batch)
        position += length + border - in_window
    return padded
