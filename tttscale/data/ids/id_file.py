"""A file of token ids whose header and index have been checked: where ids and documents are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tttscale.data.ids.columns import Column


class DocumentEnds(Protocol):
    """Where the documents of a file end, as an index says it."""

    @property
    def count(self) -> int:
        """Documents."""
        ...

    def read(self, begin: int, end: int) -> np.ndarray:
        """Number of ids before the end of each document [begin, end), ascending, int64."""
        ...


@dataclass(frozen=True)
class ListedEnds:
    """Ends that stand in a column."""

    column: Column

    @property
    def count(self) -> int:
        """Documents."""
        return self.column.count

    def read(self, begin: int, end: int) -> np.ndarray:
        """Number of ids before the end of each document [begin, end), ascending, int64."""
        return self.column.read(begin, end).astype(np.int64)


@dataclass(frozen=True)
class IdFile:
    """Token ids on disk, and what else is known of them."""

    kind: str
    """How the file is laid out, for people, such as "NumPy array"."""
    ids: Column
    """The ids."""
    ends: DocumentEnds | None = None
    """Where documents end; None: bos and eos among the ids say it."""
    beside: tuple[Path, ...] = ()
    """The files that describe the ids, such as an index."""
    tokenizer: str = ""
    """What these say about the tokenizer; empty if nothing."""
    has_mask: bool = False
    """Whether a mask comes with it that would leave tokens out of the loss."""

    @property
    def path(self) -> Path:
        """The file that holds the ids."""
        return self.ids.path

    @property
    def dtype_name(self) -> str:
        """The dtype of an id, such as "uint16"."""
        return np.dtype(self.ids.dtype).name
