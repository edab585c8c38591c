"""The padded stream of a split, in which every document begins on a mini-batch boundary."""

from typing import NamedTuple

import numpy as np


class DocumentSpans(NamedTuple):
    """The spans of documents in a range of positions, one after the other; each column int64 [n]."""

    documents: np.ndarray
    """Numbers of the documents, ascending by one. The first one, and one that ended in an earlier
    window, may have only padding in the range."""
    begins: np.ndarray
    """First raw token of each in the range."""
    ends: np.ndarray
    """End of its raw tokens in the range, exclusive; equal to `begins` where there is only padding."""
    positions: np.ndarray
    """Where each span begins, counted from the begin of the range."""


class PaddedStream:
    """The padded stream: the documents of a split with padding between them.

    Every document begins on a boundary: a multiple of the mini-batch inside its window. Its tokens
    follow each other without a gap, across the ends of windows too; padding fills the positions from
    its end to the next document. Position 0 of every window is a token.

    Args:
        starts: raw offset of each document, [documents].
        num_tokens: raw tokens in all.
        padded: position of each document, [documents]; None leaves out all padding.
    """

    def __init__(
        self, starts: np.ndarray, num_tokens: int, padded: np.ndarray | None = None
    ) -> None:
        self.raw = np.append(starts.astype(np.int64), num_tokens)
        self.padded = self.raw[:-1] if padded is None else padded
        lengths = np.diff(self.raw)
        self.num_positions = int(self.padded[-1] + lengths[-1]) if len(lengths) else 0

    def spans(self, begin: int, end: int) -> DocumentSpans:
        """The spans of documents at positions [begin, end) of the padded stream."""
        first = int(np.searchsorted(self.padded, begin, "right")) - 1
        last = int(np.searchsorted(self.padded, end, "left"))
        raw, padded, ends = (
            self.raw[first:last],
            self.padded[first:last],
            self.raw[1:][first:last],
        )
        # Raw tokens of each document in the range; none where only its padding is in it.
        lower = np.minimum(raw + np.maximum(begin - padded, 0), ends)
        upper = np.minimum(raw + (end - padded), ends)
        return DocumentSpans(np.arange(first, last), lower, upper, lower - raw + padded - begin)

    def locate(self, begin: int, end: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Find the tokens at positions [begin, end) of the padded stream; they are one raw range.

        Returns:
            the first raw token; the position of each token, counted from `begin`, int64 [n]; and
            whether it is the last of its document, bool [n].
        """
        documents, lower, upper, positions = self.spans(begin, end)
        counts = upper - lower
        raw = np.arange(lower[0], upper[-1])
        ends = np.repeat(self.raw[documents + 1], counts)
        return int(lower[0]), raw + np.repeat(positions - lower, counts), raw + 1 == ends

    def starts_between(self, begin: int, end: int) -> np.ndarray:
        """Positions in [begin, end) where a document begins, counted from `begin`."""
        low, high = np.searchsorted(self.padded, [begin, end])
        return self.padded[low:high] - begin

    def tokens_before(self, position: int) -> int:
        """Tokens at positions [0, position), position > 0."""
        return int(self.spans(position - 1, position).ends[-1])


def pack_continuing(lengths: np.ndarray, window: int, mini_batch: int) -> np.ndarray:
    """Pack each document at the next boundary, to continue in the next window where it does not fit.

    Args:
        lengths: tokens of each document, int64 [documents].
        window: positions per window; its end is a boundary too.
        mini_batch: positions per inner mini-batch.
    """
    if window % mini_batch == 0:
        mini_batches = -(-lengths // mini_batch)
        return (np.cumsum(mini_batches) - mini_batches) * mini_batch
    padded, position = np.zeros(len(lengths), np.int64), 0
    for index, length in enumerate(lengths.tolist()):  # each depends on the last
        padded[index] = position
        in_window = (position + length) % window
        boundary = min(window, -(-in_window // mini_batch) * mini_batch)
        position += length + boundary - in_window
    return padded


def pack_whole(lengths: np.ndarray, window: int, mini_batch: int) -> np.ndarray:
    """Pack by next-fit: each document at the next boundary if it fits into the window, else in a new one.

    A document longer than a window begins one and continues in the next; others follow its tail.
    Arguments are those of `pack_continuing`. The loop is over windows, never over documents.
    """
    count, rounded = len(lengths), -(-lengths // mini_batch) * mini_batch
    ends = np.cumsum(rounded)
    packed = ends - rounded  # positions if there were no windows
    # For every document, as if it began a window: which one begins the next, and how many windows later.
    full, tail = np.divmod(lengths, window)
    taken = -(-tail // mini_batch) * mini_batch
    following = np.searchsorted(packed + lengths, ends + window - taken, "right")
    alone = (tail == 0) | (following <= np.arange(count))
    following = np.where(alone, np.arange(1, count + 1), following)
    index, begins = 0, []
    while index < count:
        begins.append(index)
        index = following.item(index)
    firsts = np.array(begins, np.int64)
    windows = full[firsts] + (tail[firsts] > 0)
    starts = (np.cumsum(windows) - windows) * window
    # The others follow at the distances of `packed`, the first of them `taken` after `full` windows.
    moves = starts + full[firsts] * window + taken[firsts] - ends[firsts]
    padded = packed + np.repeat(moves, np.diff(firsts, append=count))
    padded[firsts] = starts
    return padded
