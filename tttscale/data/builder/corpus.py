"""What a store is built from, whatever it is: texts, or ready token ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tttscale.data.builder.tally import Tally
from tttscale.data.builder.tokenized import TokenizedSlice
from tttscale.data.store.manifest import BuildInfo, TokenizerInfo
from tttscale.data.workers import Meter


class Slice(Protocol):
    """A part of the sources that one worker turns into tokens."""

    @property
    def name(self) -> str:
        """A hexadecimal hash that says exactly what is in it."""
        ...

    @property
    def size_bytes(self) -> int:
        """Its bytes on disk."""
        ...


class Corpus(Protocol):
    """The sources of a store, and how they become tokens; it is sent to the workers as it is."""

    @property
    def sources(self) -> Sequence[str]:
        """As the command line named them."""
        ...

    @property
    def tokenizer(self) -> TokenizerInfo:
        """The tokenizer that makes the ids, or made them."""
        ...

    @property
    def definition(self) -> bytes | None:
        """Its tokenizer.json; None if it is built in or unknown."""
        ...

    @property
    def phase(self) -> str:
        """What making tokens of them is called in the progress."""
        ...

    def announce(self) -> None:
        """Say before the work what may not be intended."""
        ...

    def slices(self, own: Path) -> Sequence[Any]:
        """Find the files and cut them into slices.

        Args:
            own: a folder whose files are not sources.

        Raises:
            DataError: a source cannot be read, or is of no known kind.
        """
        ...

    def tokenize(self, source: Any, target: TokenizedSlice, meter: Meter) -> None:
        """Turn one slice into tokens.

        Raises:
            DataError: what is in it cannot be used. `target` is then not done.
        """
        ...

    def check(self, tally: Tally) -> None:
        """Look at what was noticed in all slices, before the store is written.

        Raises:
            DataError: the store is not to be built.
        """
        ...

    def refuse_empty(self, tally: Tally) -> NoReturn:
        """Refuse sources of which no token came.

        Raises:
            DataError: always.
        """
        ...

    def build_info(self, slices: Sequence[Any], tally: Tally) -> BuildInfo:
        """Say for the manifest how the sources were read."""
        ...
