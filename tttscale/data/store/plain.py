"""Plain Zarr arrays of tokens, one per split, as the public recipe of TTT-E2E uses them; read only.

Such a folder holds 1-D integer arrays called `train`, `val` and the like, and says nothing about itself:
no tokenizer, no digests, no document starts. So a flipped bit is noticed only if the arrays' codec has a
checksum. A lost chunk is refused all the same, and so is every id outside the vocabulary.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tttscale.data.store.manifest import SplitInfo, StoreInfo, TokenizerInfo
from tttscale.data.store.storage import Storage
from tttscale.data.store.token_store import Split, TokenStore, unreadable
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


class PlainStore(TokenStore):
    """A folder of plain arrays; `TokenStore.open` makes one where there is no manifest.

    Its fingerprint follows the arrays' metadata: their tokens have no digests that it could follow.

    Args:
        storage: Its files.
        vocab_size: Ids at or above this are refused.

    Raises:
        DataError: There is no 1-D integer array of a usual name.
    """

    names_tokenizer = False

    def __init__(self, storage: Storage, vocab_size: int | None) -> None:
        import zarr

        self.path, self.storage, self.quarantine = storage.location, storage, None
        metadata = {name: _metadata(storage, name) for name in SPLIT_NAMES}
        guarded = _NoLostChunks(storage.zarr_store())
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

    def _open(self, store: "_NoLostChunks", name: str) -> "zarr.Array":
        import zarr

        try:
            return zarr.open_array(store, path=name, mode="r")
        except DataError:
            raise
        except Exception as error:  # of as many kinds as metadata has fields
            raise unreadable(self.path, name, error) from error

    def tokenizer(self) -> Tokenizer:
        """Raises DataError: nobody knows it."""
        raise DataError(
            f"{self.path}: plain arrays do not say which tokenizer made them. What needs "
            "no text works: `tttscale data show --tokens 0`, for one."
        )

    def split(self, name: str) -> Split:
        """The array `name`.

        Raises:
            DataError: There is none of that name.
        """
        if name not in self._arrays:
            raise DataError(
                f"{self.path} has no split {name!r}, only {', '.join(self._arrays)}. Name one of "
                "these; held-out ones with data.heldout_split."
            )
        return _PlainSplit(self, name, self._arrays[name])


class _PlainSplit(Split):
    knows_documents = False

    def __init__(self, store: PlainStore, name: str, array: "zarr.Array") -> None:
        self.name, self.text_bytes, self.filler = name, 0, FILLER
        self.num_tokens = array.shape[0]
        self.damaged = []
        self._array, self._where = array, f"{store.path}: {name}"
        self._vocab_size = store.info.tokenizer.vocab_size

    @property
    def document_starts(self) -> np.ndarray:
        """Raises DataError: nobody knows them."""
        raise DataError(
            f"{self._where}: plain arrays do not say where documents begin. Set "
            "data.documents=ignore, or build a store with `tttscale data build`."
        )

    def forget(self) -> None:
        """Nothing is remembered here."""

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end).

        Raises:
            DataError: A chunk is lost or damaged, or an id is outside the vocabulary.
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


class _NoLostChunks(CheckedStore):
    """Zarr reads a chunk that is not there as zeros; here that is an error."""

    def admit(self, key: str, byte_range: "ByteRequest | None", value: Any) -> Any:
        """Refuses a chunk that is not there."""
        if value is None and key.rsplit("/", 1)[-1].isdigit():
            raise DataError(f"{self._store}: {key} is missing. Fetch the arrays again.")
        return value


def is_plain(storage: Storage) -> bool:
    """Whether there is an array of a usual name."""
    return any(_metadata(storage, name) for name in SPLIT_NAMES)


def _metadata(storage: Storage, name: str) -> bytes | None:
    """What the array `name` says of itself; None if there is no such array."""
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
