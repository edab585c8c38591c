"""Windows of a split, cut into the chunks that ranks own: each reads its own tokens and no more."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from tttscale.data.windows.order import WindowOrder
from tttscale.data.windows.padded_stream import (
    PaddedLayout,
    TokenSplit,
    running_places,
    whole_places,
)
from tttscale.errors import DataError

IGNORED_LABEL = -100
DocumentMode = Literal["ignore", "reset", "whole"]


class TooShortError(DataError):
    """A split has no whole window."""


@dataclass(frozen=True)
class ChunkTokens:
    """What one chunk trains on, all by position in the chunk.

    Attributes:
        ids: Token ids, int64 [n].
        labels: The token that follows each, already shifted, int64 [n]; -100 where there is none.
        starts: Positions where a document begins and the inner state starts afresh, ascending;
            multiples of the mini-batch if the chunk's own begin is one. The begin of the window is
            never listed: the state is fresh there anyway.
        padded: True where the loader put padding or where the store is quarantined, bool [n], to be
            kept out of the loss and of the inner gradient; None where there is neither.
    """

    ids: np.ndarray
    labels: np.ndarray
    starts: tuple[int, ...] = ()
    padded: np.ndarray | None = None


class WindowSource(Protocol):
    """What a run asks of its tokens: `Windows` of one store, or a `Blend` of several."""

    sequence_tokens: int
    count: int

    def sequence(self, index: int) -> "Sequence":
        """The `index`-th sequence of the run, index = (step - 1) * sequences_per_step + i."""
        ...

    def window(self, number: int) -> "Sequence":
        """Window `number` of `count`, for held-out losses."""
        ...


class Windows:
    """A split as windows of `sequence_tokens` positions, in a shuffled order per epoch.

    With documents="ignore" a window is a piece of the concatenated text and the label is the next
    token of the stream, whatever document it belongs to. With "reset" the documents are laid out
    with padding so that each begins on a mini-batch border, where the inner state starts afresh; a
    document that runs over the window's end goes on in the next window. What is left behind the
    last whole window is not used. With "whole" a document that does not fit in the rest of a window
    begins the next one, so only documents longer than a window are cut; all of the text is used.

    Args:
        split: The tokens.
        sequence_tokens: Positions per window, at least 1.
        seed: Seed of the order.
        mini_batch_tokens: Positions per inner mini-batch.
        documents: "ignore", "reset" or "whole".

    Raises:
        TooShortError: The split is shorter than one window; with "whole", it is empty.
    """

    def __init__(
        self,
        split: TokenSplit,
        sequence_tokens: int,
        seed: int,
        mini_batch_tokens: int,
        documents: DocumentMode = "ignore",
    ) -> None:
        assert min(sequence_tokens, mini_batch_tokens) > 0, (sequence_tokens, mini_batch_tokens)
        self.split = split
        self.sequence_tokens = sequence_tokens
        self.layout: PaddedLayout | None = None
        usable = split.num_tokens - 1  # the last token is only a label
        if documents != "ignore":
            place = whole_places if documents == "whole" else running_places
            starts = split.document_starts.astype(np.int64)
            lengths = np.diff(np.append(starts, split.num_tokens))
            padded = place(lengths, sequence_tokens, mini_batch_tokens)
            self.layout = PaddedLayout(starts, split.num_tokens, padded)
            usable = self.layout.num_positions
        self.count = usable // sequence_tokens
        if documents == "whole":
            self.count = -(-usable // sequence_tokens)  # the rest of the last one is padding
        if self.count < 1:
            raise TooShortError(
                f"data.sequence_length {sequence_tokens}: the split has {split.num_tokens} tokens, "
                f"too few for one window. The longest possible is {max(usable, 0)}; lower "
                "data.sequence_length, or build a store of more text."
            )
        self._order = WindowOrder(self.count, seed)

    @property
    def fill(self) -> float:
        """Share of the positions of all windows that hold a token, in (0, 1]; the rest is padding."""
        positions = self.count * self.sequence_tokens
        return 1.0 if self.layout is None else self.layout.tokens_before(positions) / positions

    def sequence(self, index: int) -> "Sequence":
        """The `index`-th sequence of the run, index = (step - 1) * sequences_per_step + i."""
        return self.window(self._order.window(index))

    def window(self, number: int) -> "Sequence":
        """Window `number` of `count`, in the order of the text."""
        assert 0 <= number < self.count, (number, self.count)
        return Sequence(self, number)


@dataclass(frozen=True)
class Sequence:
    """One window; nothing is read before `chunk`.

    Attributes:
        windows: Where it belongs.
        window: Its number there, in the order of the text.
    """

    windows: Windows
    window: int

    def chunk(self, begin: int, end: int) -> ChunkTokens:
        """Positions [begin, end) of the window; reads these tokens and one more for the label.

        Raises:
            DataError: The store is damaged there.
        """
        length = self.windows.sequence_tokens
        assert 0 <= begin < end <= length, (begin, end, length)
        offset = self.window * length
        if self.windows.layout is None:
            return self._running_chunk(offset + begin, offset + end)
        return self._padded_chunk(self.windows.layout, offset + begin, offset + end)

    def _running_chunk(self, begin: int, end: int) -> ChunkTokens:
        split = self.windows.split
        tokens = split.read(begin, end + 1).astype(np.int64)
        damaged = _damage(split, begin, end + 1)
        if damaged is None:
            return ChunkTokens(ids=tokens[:-1], labels=tokens[1:])
        labels = np.where(damaged[:-1] | damaged[1:], IGNORED_LABEL, tokens[1:])
        padded = damaged[:-1]
        return ChunkTokens(tokens[:-1], labels, padded=padded if padded.any() else None)

    def _padded_chunk(self, layout: PaddedLayout, begin: int, end: int) -> ChunkTokens:
        split = self.windows.split
        ids = np.full(end - begin, split.filler, np.int64)
        labels = np.full(end - begin, IGNORED_LABEL, np.int64)
        padded = np.ones(end - begin, bool)
        first, places, is_last = layout.locate(begin, end)
        if len(places):
            goes_on = int(not is_last[-1])  # then the label of the last token is one token further
            tokens = split.read(first, first + len(places) + goes_on)
            ids[places] = tokens[: len(places)]
            followed = places[~is_last]
            labels[followed] = tokens[1:][~is_last[: len(tokens) - 1]]
            padded[places] = False
            damaged = _damage(split, first, first + len(tokens))
            if damaged is not None:
                padded[places] = damaged[: len(places)]
                bad = (damaged[:-1] | damaged[1:])[~is_last[: len(tokens) - 1]]
                labels[followed[bad]] = IGNORED_LABEL
        at_window = begin == self.window * self.windows.sequence_tokens
        starts = (int(s) for s in layout.starts_between(begin, end) if s or not at_window)
        return ChunkTokens(ids, labels, tuple(starts), padded if padded.any() else None)


def _damage(split: TokenSplit, begin: int, end: int) -> np.ndarray | None:
    """Which of the tokens [begin, end) are quarantined, bool [n]; None if none is, as is usual."""
    ranges = split.damaged_between(begin, end)
    if not ranges:
        return None
    damaged = np.zeros(end - begin, bool)
    for a, b in ranges:
        damaged[a - begin : b - begin] = True
    return damaged
