"""Reading a token store, with every doubt about its wholeness raised as a DataError."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tttscale.data.integrity import (
    REBUILD,
    check_files,
    check_size,
    first_damaged,
    parse_manifest,
)
from tttscale.data.manifest import SplitInfo, StoreInfo
from tttscale.errors import DataError

if TYPE_CHECKING:
    import zarr


class Split:
    """One split of a store: its tokens as one long stream.

    Use `TokenStore.split`. Attributes are sizes from the manifest.
    """

    def __init__(self, store: "TokenStore", name: str, info: SplitInfo) -> None:
        self.name = name
        self.num_tokens = info.tokens
        self.text_bytes = info.text_bytes
        self.filler = store.info.tokenizer.filler
        self._store = store
        self._array = store.array(f"{name}/tokens", info.tokens)
        self._num_documents = info.documents

    @property
    def document_starts(self) -> np.ndarray:
        """Offset of each document's first token, uint64 [documents]; read anew at every call."""
        path = f"{self.name}/document_starts"
        array = self._store.array(path, self._num_documents)
        return self._store.read(array, path, 0, self._num_documents)

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end) in the store's dtype.

        Raises:
            DataError: A shard is damaged, or holds an id that the tokenizer does not have.
        """
        assert 0 <= begin <= end <= self.num_tokens, (begin, end, self.num_tokens)
        tokens = self._store.read(self._array, f"{self.name}/tokens", begin, end)
        vocab_size = self._store.info.tokenizer.vocab_size
        if len(tokens) and tokens.max() >= vocab_size:
            raise DataError(
                f"{self._store.path}: {self.name}/tokens holds id {tokens.max()} between tokens "
                f"{begin} and {end}, but its tokenizer has {vocab_size} ids. {REBUILD}"
            )
        return tokens


class TokenStore:
    """A complete token store; `TokenStore.open` makes one.

    Attributes:
        path: Its folder.
        info: Its manifest.
    """

    def __init__(self, path: Path, info: StoreInfo, root: "zarr.Group") -> None:
        self.path, self.info, self._root = path, info, root

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """Opens a store and checks that every file is there with its size.

        Raises:
            DataError: It is missing, incomplete, damaged, or not a store of this version.
        """
        import zarr

        path = Path(path)
        if not path.is_dir():
            raise DataError(
                f"data.store {path}: no such folder. Build it with `tttscale data build`, or "
                "correct the path."
            )
        # zarr 3.2 and later can refuse to read a lost chunk as zeros; earlier ones ignore the key.
        with zarr.config.set({"array.read_missing_chunks": False}):
            try:
                root = zarr.open_group(path, mode="r", zarr_format=3)
            except (OSError, ValueError, KeyError) as error:
                raise DataError(f"data.store {path}: not a Zarr v3 group. {REBUILD}") from error
            info = parse_manifest(root.attrs.asdict(), path)
            check_files(path, info)
            return cls(path, info, root)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change whenever tokenizer or content does."""
        return self.info.fingerprint

    def split(self, name: str) -> Split:
        """The split `name`.

        Raises:
            DataError: There is none of that name.
        """
        for known, split in self.info.splits.items():
            if known == name:
                return Split(self, known, split)
        raise DataError(
            f"data.split {name!r}: {self.path} has only {', '.join(self.info.splits)}. "
            "Name one of these."
        )

    def array(self, name: str, length: int) -> "zarr.Array":
        """The array `name`, which must have `length` values.

        Raises:
            DataError: It has another shape or an unsupported dtype.
        """
        import zarr

        with zarr.config.set({"array.read_missing_chunks": False}):
            array = self._root[name]
        assert isinstance(array, zarr.Array)
        dtype = "uint64" if name.endswith("document_starts") else self.info.tokenizer.dtype
        if array.shape != (length,) or array.dtype != dtype:
            raise DataError(
                f"{self.path}: {name} is {array.dtype} {list(array.shape)}, but the manifest says "
                f"{dtype} [{length}]. {REBUILD}"
            )
        return array

    def read(self, array: "zarr.Array", name: str, begin: int, end: int) -> np.ndarray:
        """Values [begin, end) of `array`, called `name`.

        Raises:
            DataError: A shard is lost or damaged; the message names it and the place inside.
        """
        assert array.shards is not None
        shard = array.shards[0]
        for index in range(begin // shard, -(-end // shard) if end > begin else 0):
            # A shard lost since `open` would read as zeros.
            check_size(self.path, self.info, f"{name}/c/{index}")
        try:
            return np.asarray(array[begin:end])
        except Exception as error:  # every codec has its own kinds
            where = first_damaged(array, begin, end)
            raise DataError(
                f"{self.path}: {name}/c/{where // shard} is damaged at value {where % shard} of "
                f"the shard ({where} of the split): {error}. {REBUILD}"
            ) from error
