"""Splits in memory, and the layouts that let every document begin on a mini-batch border."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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
        """Tokens [begin, end); the filler where they are quarantined."""
        ...

    def damaged_between(self, begin: int, end: int) -> list[tuple[int, int]]:
        """The quarantined ranges inside [begin, end), ascending."""
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

    def damaged_between(self, begin: int, end: int) -> list[tuple[int, int]]:
        """None: memory is trusted."""
        return []


class Pieces(NamedTuple):
    """What of the documents lies in a range of positions; int64 [n], one after the other.

    Attributes:
        documents: Numbers of the documents, ascending by one. Of the first, and of one that ended
            in an earlier window, there may be nothing but padding in the range.
        begins: The first raw token of each that lies in the range.
        ends: Behind the last one; equal to `begins` where there is only padding.
        places: Position after the range's begin where the piece goes.
    """

    documents: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    places: np.ndarray


class PaddedLayout:
    """The padded stream: where every document begins when gaps are left between them.

    Every document begins on a border: a multiple of the mini-batch inside its window. Its tokens
    follow each other without a gap, over the ends of windows too; what is behind them up to the
    next document is padding. Position 0 of every window is a token.

    Args:
        starts: Raw offset of each document, [documents].
        num_tokens: Raw tokens in all.
        padded: Position of each document, [documents]; None puts them where they are.
    """

    def __init__(
        self, starts: np.ndarray, num_tokens: int, padded: np.ndarray | None = None
    ) -> None:
        self.raw = np.append(starts.astype(np.int64), num_tokens)
        self.padded = self.raw[:-1] if padded is None else padded
        lengths = np.diff(self.raw)
        self.num_positions = int(self.padded[-1] + lengths[-1]) if len(lengths) else 0

    def pieces(self, begin: int, end: int) -> Pieces:
        """What lies at positions [begin, end) of the padded stream, by document."""
        first = int(np.searchsorted(self.padded, begin, "right")) - 1
        last = int(np.searchsorted(self.padded, end, "left"))
        raw, padded, ends = (
            self.raw[first:last],
            self.padded[first:last],
            self.raw[1:][first:last],
        )
        # Raw tokens of each document that fall into the range; none where only its padding does.
        lower = np.minimum(raw + np.maximum(begin - padded, 0), ends)
        upper = np.minimum(raw + (end - padded), ends)
        return Pieces(np.arange(first, last), lower, upper, lower - raw + padded - begin)

    def locate(self, begin: int, end: int) -> tuple[int, np.ndarray, np.ndarray]:
        """What lies at positions [begin, end) of the padded stream, which is one raw range.

        Returns:
            The first raw token; for each token of the range the position after `begin` where it
            goes, int64 [n]; and whether it is the last of its document, bool [n].
        """
        documents, lower, upper, places = self.pieces(begin, end)
        counts = upper - lower
        raw = np.arange(lower[0], upper[-1])
        ends = np.repeat(self.raw[documents + 1], counts)
        return int(lower[0]), raw + np.repeat(places - lower, counts), raw + 1 == ends

    def starts_between(self, begin: int, end: int) -> np.ndarray:
        """Positions in [begin, end) where a document begins, counted from `begin`."""
        low, high = np.searchsorted(self.padded, [begin, end])
        return self.padded[low:high] - begin

    def tokens_before(self, position: int) -> int:
        """Tokens at positions [0, position), position > 0."""
        return int(self.pieces(position - 1, position).ends[-1])


def running_places(lengths: np.ndarray, window: int, mini_batch: int) -> np.ndarray:
    """Each document on the next border, going on in the next window where it does not fit.

    Args:
        lengths: Tokens of each document, int64 [documents].
        window: Positions per window; its end is a border too.
        mini_batch: Positions per inner mini-batch.
    """
    if window % mini_batch == 0:
        blocks = -(-lengths // mini_batch)
        return (np.cumsum(blocks) - blocks) * mini_batch
    padded, position = np.zeros(len(lengths), np.int64), 0
    for index, length in enumerate(lengths.tolist()):  # each depends on the last
        padded[index] = position
        in_window = (position + length) % window
        border = min(window, -(-in_window // mini_batch) * mini_batch)
        position += length + border - in_window
    return padded


def whole_places(lengths: np.ndarray, window: int, mini_batch: int) -> np.ndarray:
    """Next-fit: each document on the next border if it fits before the window's end, else in a new one.

    A document longer than a window begins one and goes on through the next; others follow its tail.
    Arguments are those of `running_places`. The loop is over windows, never over documents.
    """
    count, blocks = len(lengths), -(-lengths // mini_batch) * mini_batch
    behind = np.cumsum(blocks)
    packed = behind - blocks  # places if there were no windows
    # For every document, as if it began a window: which one begins the next, how many windows on.
    full, tail = np.divmod(lengths, window)
    taken = -(-tail // mini_batch) * mini_batch
    following = np.searchsorted(packed + lengths, behind + window - taken, "right")
    alone = (tail == 0) | (following <= np.arange(count))
    following = np.where(alone, np.arange(1, count + 1), following)
    index, begins = 0, []
    while index < count:
        begins.append(index)
        index = following.item(index)
    firsts = np.array(begins, np.int64)
    windows = full[firsts] + (tail[firsts] > 0)
    starts = (np.cumsum(windows) - windows) * window
    # The others follow at the distances of `packed`, the first of them at `taken` behind `full`.
    moves = starts + full[firsts] * window + taken[firsts] - behind[firsts]
    padded = packed + np.repeat(moves, np.diff(firsts, append=count))
    padded[firsts] = starts
    return padded
