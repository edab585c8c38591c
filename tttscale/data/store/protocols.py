"""What windows and runs need of a store and of its splits, whatever they are kept in."""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from tttscale.data.store.manifest import StoreInfo
from tttscale.data.store.quarantine import Quarantine
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.location import Location

if TYPE_CHECKING:
    from tttscale.data.store.storage import Storage


class TokenSplit(Protocol):
    """What windows need of a split, on disk or in memory."""

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


class Split(TokenSplit, Protocol):
    """One split of a store: its tokens as one long stream."""

    name: str
    damaged: list[tuple[int, int]]
    """Ranges of tokens that are quarantined; `read` gives the filler there."""

    @property
    def knows_documents(self) -> bool:
        """Whether it has document starts."""
        ...

    @property
    def array_path(self) -> str:
        """Path inside the store of the array of the tokens."""
        ...

    def drop_cache(self) -> None:
        """Forget what was decoded: what is read next is read from disk."""
        ...


class Store(Protocol):
    """An open store: `open_store` returns one."""

    path: Location
    """Its folder or URL."""
    info: StoreInfo
    """Its manifest."""
    storage: "Storage"
    """Its files."""
    quarantine: Quarantine | None
    """The damaged ranges that are read as padding; None if damage is refused."""

    @property
    def names_tokenizer(self) -> bool:
        """Whether it says which tokenizer made its ids."""
        ...

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change whenever tokenizer or content does."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids.

        Raises:
            DataError: it is not known, or not the one that the manifest names.
        """
        ...

    def split(self, name: str) -> Split:
        """The split `name`.

        Raises:
            DataError: there is none of that name.
        """
        ...
