"""Plain Zarr arrays of tokens, one per split, as the public recipe of TTT-E2E uses them; read only.

Such a folder holds 1-D integer arrays called `train`, `val` and the like, without a manifest: no tokenizer,
no digests, no document starts. So a flipped bit is noticed only if the arrays' codec has a checksum. A
missing chunk is refused all the same, and so is every id outside the vocabulary.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tttscale.data.store.integrity import unreadable
from tttscale.data.store.manifest import SplitInfo, StoreInfo, TokenizerInfo
from tttscale.data.store.quarantine import Quarantine
from tttscale.data.store.storage import Storage
from tttscale.data.store.zarr_guard import CheckedStore
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import DataError
from tttscale.reading import parse_json

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import ByteRequest

SPLIT_NAMES = ("train", "val", "valid", "validation", "heldout", "test")
METADATA = ("zarr.json", ".zarray")
FILLER = 0


class PlainStore:
    """A folder of plain arrays; `open_store` makes one where there is no manifest.

    Its fingerprint follows the arrays' metadata: their tokens have no digests that it could follow.

    Args:
        storage: its files.
        vocab_size: ids at or above this are refused.

    Raises:
        DataError: there is no 1-D integer array of a usual name.
    """

    names_tokenizer = False

    def __init__(self, storage: Storage, vocab_size: int | None) -> None:
        import zarr

        self.path, self.storage = storage.location, storage
        self.quarantine: Quarantine | None = None
        metadata = {name: _metadata(storage, name) for name in SPLIT_NAMES}
        guarded = _NoMissingChunks(storage.zarr_store())
        self._arrays: dict[str, zarr.Array] = {
            name: self._open(guarded, name) for name, found in metadata.items() if found
        }
        for name, array in self._arrays.items():
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise DataError(
                    f"{self.path}: {name} is {array.dtype} {list(array.shape)}; plain "
                    "arrays of tokens are 1-D integers. Build a store with `tttscale data build`."
                )
        largest = max(int(np.iinfo(array.dtype).max) for array in self._arrays.values())
        self.info = _describe(metadata, self._arrays, vocab_size or min(largest + 1, 1 << 32))

    def _open(self, store: "_NoMissingChunks", name: str) -> "zarr.Array":
        import zarr

        try:
            return zarr.open_array(store, path=name, mode="r")
        except DataError:
            raise
        except Exception as error:  # of as many kinds as metadata has fields
            raise unreadable(self.path, name, error) from error

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that follow the arrays' metadata."""
        return self.info.fingerprint

    def tokenizer(self) -> Tokenizer:
        """Refuse: it is not known.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{self.path}: plain arrays do not say which tokenizer made them. Commands "
            "that decode no text work, such as `tttscale data show --tokens 0`."
        )

    def split(self, name: str) -> "PlainSplit":
        """The array `name`.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self._arrays:
            raise DataError(
                f"{self.path} has no split {name!r}, only {', '.join(self._arrays)}. Name one of "
                "these; held-out ones with data.heldout_split."
            )
        return PlainSplit(self, name, self._arrays[name])


class PlainSplit:
    """One plain array."""

    knows_documents = False

    def __init__(self, store: PlainStore, name: str, array: "zarr.Array") -> None:
        self.name, self.text_bytes, self.filler = name, 0, FILLER
        self.num_tokens = array.shape[0]
        self.damaged: list[tuple[int, int]] = []
        self._array, self._where = array, f"{store.path}: {name}"
        self._vocab_size = store.info.tokenizer.vocab_size

    @property
    def array_path(self) -> str:
        """Path inside the store of the array of the tokens."""
        return self._array.path

    @property
    def document_starts(self) -> np.ndarray:
        """Refuse: they are not known.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{self._where}: plain arrays do not say where documents begin. Set "
            "data.documents=ignore, or build a store with `tttscale data build`."
        )

    def damaged_between(self, begin: int, end: int) -> list[tuple[int, int]]:
        """No range: plain arrays have no quarantine."""
        return []

    def drop_cache(self) -> None:
        """Do nothing: nothing is kept here."""

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end).

        Raises:
            DataError: a chunk is missing or damaged, or an id is outside the vocabulary.
        """
        assert 0 <= begin <= end <= self.num_tokens, (begin, end, self.num_tokens)
        try:
            tokens = np.asarray(self._array[begin:end])
        except DataError:
            raise
        except Exception as error:  # every codec has its own kinds
            raise DataError(
                f"{self._where}: tokens {begin} to {end} do not decode: {error}. Fetch it again."
            ) from error
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self._vocab_size:
            bad = tokens[(tokens < 0) | (tokens >= self._vocab_size)][0]
            raise DataError(
                f"{self._where} holds id {bad} between tokens {begin} and {end}, outside "
                f"[0, {self._vocab_size}). Set model.vocab_size to the tokenizer's."
            )
        return tokens


class _NoMissingChunks(CheckedStore):
    """Refuses a missing chunk, which Zarr would read as zeros."""

    def admit(self, key: str, byte_range: "ByteRequest | None", value: Any) -> Any:
        """Refuse a missing chunk."""
        if value is None and key.rsplit("/", 1)[-1].isdigit():
            raise DataError(f"{self._store}: {key} is missing. Fetch the arrays again.")
        return value


def is_plain(storage: Storage) -> bool:
    """Whether there is an array of a usual name."""
    return any(_metadata(storage, name) for name in SPLIT_NAMES)


def _metadata(storage: Storage, name: str) -> bytes | None:
    """The metadata file of the array `name`; None if there is no such array."""
    for file in METADATA:
        data = storage.read(f"{name}/{file}")
        if data is not None:
            try:
                node = parse_json(data)
            except ValueError:
                return None
            if not isinstance(node, dict):
                return None
            return data if file == ".zarray" or node.get("node_type") == "array" else None
    return None


def _describe(
    metadata: dict[str, bytes | None], arrays: "dict[str, zarr.Array]", vocab_size: int
) -> StoreInfo:
    known = {name: data.decode() for name, data in metadata.items() if data}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    tokenizer = TokenizerInfo(
        name="unknown",
        digest=digest,
        vocab_size=vocab_size,
        bos_id=None,
        eos_id=None,
        pad_id=None,
    )
    splits: dict[Any, SplitInfo] = {
        name: SplitInfo(documents=0, tokens=array.shape[0], text_bytes=0)
        for name, array in arrays.items()
    }
    return StoreInfo.model_construct(
        tokenizer=tokenizer,
        splits=splits,
        sources=["plain arrays"],
        holdout_fraction=0.0,
        seed=0,
        skipped_documents=0,
        files={},
    )
