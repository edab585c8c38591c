"""Windows of a split, cut into the chunks that ranks own: each rank reads the tokens of its chunks only."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from tttscale.data.store.protocols import TokenSplit
from tttscale.data.windows.order import WindowOrder
from tttscale.data.windows.padded_stream import PaddedStream, pack_continuing, pack_whole
from tttscale.errors import DataError

IGNORED_LABEL = -100
DocumentMode = Literal["ignore", "reset", "whole"]


class TooShortError(DataError):
    """A split is shorter than one window."""


@dataclass(frozen=True)
class TokenChunk:
    """What one chunk trains on, by position in the chunk."""

    ids: np.ndarray
    """Token ids, int64 [n]."""
    labels: np.ndarray
    """The token that follows each, already shifted, int64 [n]; -100 where there is none."""
    starts: tuple[int, ...] = ()
    """Positions where a document begins and the inner state is reset, ascending;
    multiples of the mini-batch if the chunk's own begin is one. The begin of the window is
    never listed: the state is initial there anyway."""
    padded: np.ndarray | None = None
    """True where the loader put padding or where the store is quarantined, bool [n], to be
    kept out of the loss and of the inner gradient; None where there is neither."""


class WindowSource(Protocol):
    """What training needs of its tokens: `Windows` of one store, or a `Blend` of several."""

    sequence_tokens: int
    count: int

    def sequence(self, index: int) -> "Window":
        """The `index`-th sequence of the run, index = (step - 1) * sequences_per_step + i."""
        ...

    def window(self, number: int) -> "Window":
        """Window `number` of `count`, for held-out losses."""
        ...


class Windows:
    """A split as windows of `sequence_tokens` positions, in a shuffled order per epoch.

    With documents="ignore" a window is a range of the concatenated text and the label is the next
    token of the stream, whatever document it belongs to. With "reset" the documents are padded so
    that each begins on a mini-batch boundary, where the inner state is reset; a document that does
    not end in a window continues in the next one. The rest after the last whole window is not used.
    With "whole" a document that does not fit in the rest of a window begins the next one, so only
    documents longer than a window are cut; all of the text is used.

    Args:
        split: the tokens.
        sequence_tokens: positions per window, at least 1.
        seed: seed of the order.
        mini_batch_tokens: positions per inner mini-batch.
        documents: "ignore", "reset" or "whole".

    Raises:
        TooShortError: the split is shorter than one window; with "whole", it is empty.
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
        self.padded_stream: PaddedStream | None = None
        usable = split.num_tokens - 1  # the last token is only a label
        if documents != "ignore":
            pack = pack_whole if documents == "whole" else pack_continuing
            starts = split.document_starts.astype(np.int64)
            lengths = np.diff(np.append(starts, split.num_tokens))
            padded = pack(lengths, sequence_tokens, mini_batch_tokens)
            self.padded_stream = PaddedStream(starts, split.num_tokens, padded)
            usable = self.padded_stream.num_positions
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
        return (
            1.0
            if self.padded_stream is None
            else self.padded_stream.tokens_before(positions) / positions
        )

    def sequence(self, index: int) -> "Window":
        """The `index`-th sequence of the run, index = (step - 1) * sequences_per_step + i."""
        return self.window(self._order.window(index))

    def window(self, number: int) -> "Window":
        """Window `number` of `count`, in the order of the text."""
        assert 0 <= number < self.count, (number, self.count)
        return Window(self, number)


@dataclass(frozen=True)
class Window:
    """One window of a split: one sequence of a step. No token is read before `chunk`."""

    windows: Windows
    """All windows of the split."""
    number: int
    """Which of them it is, in the order of the text."""

    def chunk(self, begin: int, end: int) -> TokenChunk:
        """Positions [begin, end) of the window; reads these tokens and one more for the label.

        Raises:
            DataError: the store is damaged there.
        """
        length = self.windows.sequence_tokens
        assert 0 <= begin < end <= length, (begin, end, length)
        offset = self.number * length
        if self.windows.padded_stream is None:
            return self._plain_chunk(offset + begin, offset + end)
        return self._padded_chunk(self.windows.padded_stream, offset + begin, offset + end)

    def _plain_chunk(self, begin: int, end: int) -> TokenChunk:
        split = self.windows.split
        tokens = split.read(begin, end + 1).astype(np.int64)
        damaged = _damage(split, begin, end + 1)
        if damaged is None:
            return TokenChunk(ids=tokens[:-1], labels=tokens[1:])
        labels = np.where(damaged[:-1] | damaged[1:], IGNORED_LABEL, tokens[1:])
        padded = damaged[:-1]
        return TokenChunk(tokens[:-1], labels, padded=padded if padded.any() else None)

    def _padded_chunk(self, stream: PaddedStream, begin: int, end: int) -> TokenChunk:
        split = self.windows.split
        ids = np.full(end - begin, split.filler, np.int64)
        labels = np.full(end - begin, IGNORED_LABEL, np.int64)
        padded = np.ones(end - begin, bool)
        first, positions, is_last = stream.locate(begin, end)
        if len(positions):
            continues = int(not is_last[-1])  # then the last token has a label, one token further
            tokens = split.read(first, first + len(positions) + continues)
            ids[positions] = tokens[: len(positions)]
            followed = positions[~is_last]
            labels[followed] = tokens[1:][~is_last[: len(tokens) - 1]]
            padded[positions] = False
            damaged = _damage(split, first, first + len(tokens))
            if damaged is not None:
                padded[positions] = damaged[: len(positions)]
                bad = (damaged[:-1] | damaged[1:])[~is_last[: len(tokens) - 1]]
                labels[followed[bad]] = IGNORED_LABEL
        at_window = begin == self.number * self.windows.sequence_tokens
        starts = (int(s) for s in stream.starts_between(begin, end) if s or not at_window)
        return TokenChunk(ids, labels, tuple(starts), padded if padded.any() else None)


def _damage(split: TokenSplit, begin: int, end: int) -> np.ndarray | None:
    """Which of the tokens [begin, end) are quarantined, bool [n]; None if none is."""
    ranges = split.damaged_between(begin, end)
    if not ranges:
        return None
    damaged = np.zeros(end - begin, bool)
    for a, b in ranges:
        damaged[a - begin : b - begin] = True
    return damaged
