"""A split in memory."""

from collections.abc import Sequence

import numpy as np


class ArraySplit:
    """A split in memory.

    Args:
        documents: token ids of each document, none of them empty.
        filler: the id to put at padded positions.
        text_bytes: bytes of the documents' text.
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
        """No range: memory is trusted."""
        return []
