"""Reading a token store. Whatever is missing, damaged or unexpected in it is a DataError."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tttscale.data.store.integrity import REBUILD, remedy, unreadable
from tttscale.data.store.manifest import TOKENIZER_FILE, SplitInfo, SplitName, StoreInfo
from tttscale.data.store.quarantine import Quarantine
from tttscale.data.store.storage import Folder, Storage
from tttscale.data.tokenizers.special_tokens import ROLES, Role, SpecialToken
from tttscale.data.tokenizers.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer
from tttscale.errors import DataError
from tttscale.location import Location

if TYPE_CHECKING:
    import zarr

SERVER = "Check network and credentials; `tttscale data verify` tells whether it is damaged."
CACHED_CHUNKS, CACHED_CHUNKS_PER_READ = 64, 4
"""Decoded Zarr chunks that a split keeps (8 MiB), and the most of them for which a read uses these."""


class StoredSplit:
    """One split of a token store; `TokenStore.split` returns one. Its sizes are the manifest's."""

    knows_documents = True
    """Whether it has document starts."""

    def __init__(self, store: "TokenStore", name: SplitName, info: SplitInfo) -> None:
        self.name = name
        self.num_tokens = info.tokens
        self.text_bytes = info.text_bytes
        self.filler = store.info.tokenizer.filler
        self._store = store
        self._array = store.array(f"{name}/tokens", info.tokens)
        self._num_documents = info.documents
        self._empty = np.empty(0, self._array.dtype)
        self._zarr_chunk = lru_cache(CACHED_CHUNKS)(self._decode_chunk)
        self.damaged = store.quarantine.of(name) if store.quarantine else []
        """Ranges of tokens that are quarantined; `read` gives the filler there."""

    def drop_cache(self) -> None:
        """Drop the decoded chunks: what is read next is read from disk."""
        self._zarr_chunk.cache_clear()

    def damaged_between(self, begin: int, end: int) -> list[tuple[int, int]]:
        """The quarantined ranges inside [begin, end), ascending."""
        clipped = ((max(a, begin), min(b, end)) for a, b in self.damaged)
        return [(a, b) for a, b in clipped if a < b]

    @property
    def array_path(self) -> str:
        """Path inside the store of the array of the tokens."""
        return self._array.path

    @property
    def document_starts(self) -> np.ndarray:
        """Offset of each document's first token, uint64 [documents]; read again at every call."""
        path = f"{self.name}/document_starts"
        array = self._store.array(path, self._num_documents)
        return self._store.read(array, path, 0, self._num_documents)

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end) in the store's dtype.

        Raises:
            DataError: a shard is damaged, or holds an id that the tokenizer does not have.
        """
        assert 0 <= begin <= end <= self.num_tokens, (begin, end, self.num_tokens)
        damaged = self.damaged_between(begin, end)
        if not damaged:
            return self._read(begin, end)
        tokens = np.full(end - begin, self.filler, self._array.dtype)
        bounds = [begin, *(bound for pair in damaged for bound in pair), end]
        for a, b in zip(bounds[::2], bounds[1::2], strict=True):
            if a < b:
                tokens[a - begin : b - begin] = self._read(a, b)
        return tokens

    def _read(self, begin: int, end: int) -> np.ndarray:
        """Read short ranges from decoded chunks: the next range is likely to lie in the same ones."""
        size = self._array.chunks[0]
        first, last = begin // size, -(-end // size)
        if last - first > CACHED_CHUNKS_PER_READ:
            return self._decode(begin, end)
        chunks = [self._zarr_chunk(index) for index in range(first, last)]
        found = chunks[0] if len(chunks) == 1 else np.concatenate([*chunks, self._empty])
        return found[begin - first * size : end - first * size]

    def _decode_chunk(self, index: int) -> np.ndarray:
        size = self._array.chunks[0]
        tokens = self._decode(index * size, min((index + 1) * size, self.num_tokens))
        tokens.flags.writeable = False
        return tokens

    def _decode(self, begin: int, end: int) -> np.ndarray:
        tokens = self._store.read(self._array, f"{self.name}/tokens", begin, end)
        vocab_size = self._store.info.tokenizer.vocab_size
        if len(tokens) and tokens.max() >= vocab_size:
            raise DataError(
                f"{self._store.path}: {self.name}/tokens holds id {tokens.max()} between tokens "
                f"{begin} and {end}, but its tokenizer has {vocab_size} ids. {REBUILD}"
            )
        return tokens


class TokenStore:
    """A complete token store; `open_store` makes one.

    Args:
        storage: its files.
        info: its manifest.
        quarantine: the damaged ranges to read as padding; None refuses damage.
    """

    def __init__(
        self, storage: Storage, info: StoreInfo, quarantine: Quarantine | None = None
    ) -> None:
        import zarr

        from tttscale.data.store.zarr_guard import GuardedStore

        self.path: Location = storage.location
        """Its folder or URL."""
        self.info, self.storage = info, storage
        self.quarantine = quarantine
        guarded = GuardedStore(storage.zarr_store(), info.files, storage.location)
        try:
            self._root = zarr.open_group(guarded, mode="r", zarr_format=3, use_consolidated=False)
        except DataError:
            raise
        except Exception as error:  # of as many kinds as metadata has fields
            raise unreadable(self.path, "zarr.json", error) from error

    @property
    def names_tokenizer(self) -> bool:
        """Whether it says which tokenizer made its ids."""
        return self.info.tokenizer.is_known

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change whenever tokenizer or content does."""
        return self.info.fingerprint

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids, from the store's own copy.

        Raises:
            DataError: it is not known, or the copy is not the tokenizer that the manifest names.
        """
        described = self.info.tokenizer
        if not described.is_known:
            raise DataError(
                f"{self.path}: its ids were imported without their tokenizer. Commands that decode no text "
                "work, such as `tttscale data show --tokens 0`; for others import them with --tokenizer."
            )
        data = self.storage.read(TOKENIZER_FILE)
        ids = (described.bos_id, described.eos_id, described.pad_id)
        named = zip(ROLES, ids, strict=True)
        roles: dict[Role, SpecialToken] = {role: SpecialToken(i, "the store") for role, i in named}
        codec: ByteTokenizer | JsonTokenizer = ByteTokenizer()
        if data is not None:
            codec = JsonTokenizer(data, described.name, roles)
        codec.bos_id, codec.eos_id, codec.pad_id = ids
        if codec.digest != described.digest:
            raise DataError(f"{self.path}: its tokenizer {described.name} is missing. {REBUILD}")
        return codec

    def split(self, name: str) -> StoredSplit:
        """The split `name`.

        Raises:
            DataError: there is none of that name.
        """
        for known, split in self.info.splits.items():
            if known == name:
                return StoredSplit(self, known, split)
        raise DataError(
            f"{self.path} has no split {name!r}, only {', '.join(self.info.splits)}. Name one of "
            "these."
        )

    def array(self, name: str, length: int) -> "zarr.Array":
        """The array `name`, which must have `length` values.

        Raises:
            DataError: it has another shape or an unsupported dtype.
        """
        import zarr

        try:
            with zarr.config.set(_fast_pipeline()):
                array = self._root[name]
        except DataError:
            raise
        except Exception as error:
            raise unreadable(self.path, name, error) from error
        if not isinstance(array, zarr.Array):
            raise DataError(f"{self.path}: {name} is not an array. {REBUILD}")
        dtype = "uint64" if name.endswith("document_starts") else self.info.tokenizer.dtype
        if array.shape != (length,) or array.dtype != dtype or array.shards is None:
            raise DataError(
                f"{self.path}: {name} is {array.dtype} {list(array.shape)}, but the manifest says "
                f"{dtype} [{length}]. {REBUILD}"
            )
        return array

    def read(self, array: "zarr.Array", name: str, begin: int, end: int) -> np.ndarray:
        """Values [begin, end) of `array`, called `name`.

        Raises:
            DataError: a shard is lost or damaged; the message names it and the place inside.
        """
        assert array.shards is not None
        shard = array.shards[0]
        try:
            return np.asarray(array[begin:end])
        except DataError:
            raise
        except Exception as error:  # every codec has its own kinds
            where = first_damaged(array, begin, end)
            # A server may also have failed to answer, which says nothing about the shard.
            local, key = isinstance(self.storage, Folder), f"{name}/c/{where // shard}"
            raise DataError(
                f"{self.path}: {key} {'is damaged' if local else 'failed'} at "
                f"value {where % shard} of the shard ({where} of the split): {error}. "
                f"{remedy(self.storage, self.info, key) if local else SERVER}"
            ) from error


def _fast_pipeline() -> dict[str, str]:
    """zarr 3.3 and later have one that is nearly twice as fast; a user's own choice comes first."""
    import zarr
    from zarr.core import codec_pipeline

    key, default = "codec_pipeline.path", "zarr.core.codec_pipeline.BatchedCodecPipeline"
    if zarr.config.get(key) != default or not hasattr(codec_pipeline, "FusedCodecPipeline"):
        return {}
    return {key: "zarr.core.codec_pipeline.FusedCodecPipeline"}


def first_damaged(array: "zarr.Array", begin: int, end: int) -> int:
    """First value of [begin, end) whose inner chunk does not read; `begin` if all do now."""
    chunk = array.chunks[0]
    for start in range(begin - begin % chunk, end, chunk):
        try:
            array[max(start, begin) : min(start + chunk, end)]
        except Exception:
            return max(start, begin)
    return begin
