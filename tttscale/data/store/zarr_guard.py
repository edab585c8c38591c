"""Checks between Zarr and the files: no missing shard reads as zeros, no index is fetched twice."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zarr.abc.store import SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import WrapperStore

from tttscale.data.store.shard_index import index_digest
from tttscale.errors import DataError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from tttscale.data.store.manifest import FileInfo

REPAIR = (
    "Check the whole store with `tttscale data verify`, then fetch or build it again, or note what "
    "is damaged with `--quarantine` and read it as padding with data.damaged=pad."
)
CACHED_INDEXES = 1024
"""The most indexes that are kept, of about 4 KiB each."""


class CheckedStore(WrapperStore):
    """A read-only Zarr store that checks everything before Zarr gets it, whichever way Zarr reads."""

    async def get(
        self,
        key: str,
        prototype: "BufferPrototype",
        byte_range: "ByteRequest | None" = None,
    ) -> "Buffer | None":
        """The bytes of a file that Zarr reads.

        Raises:
            DataError: they cannot be trusted.
        """
        known = self.remembered(key, byte_range)
        if known is not None:
            return prototype.buffer.from_bytes(known)
        return self.admit(key, byte_range, await self._store.get(key, prototype, byte_range))

    def get_sync(
        self,
        key: str,
        *,
        prototype: "BufferPrototype | None" = None,
        byte_range: "ByteRequest | None" = None,
    ) -> "Buffer | None":
        """Do the same for the synchronous readers of zarr 3.3 and later."""
        known = self.remembered(key, byte_range)
        if known is not None:
            return (prototype or default_buffer_prototype()).buffer.from_bytes(known)
        store: Any = self._store
        return self.admit(
            key, byte_range, store.get_sync(key, prototype=prototype, byte_range=byte_range)
        )

    async def get_ranges(
        self,
        key: str,
        byte_ranges: "Sequence[ByteRequest | None]",
        *,
        prototype: "BufferPrototype",
        **_: Any,
    ) -> "AsyncIterator[Sequence[tuple[int, Buffer | None]]]":
        """Several ranges of a file at once, as zarr 3.3 and later read a shard's chunks.

        Each by `get`: the wrapped store's own method would bypass `admit`, and Zarr then reads a
        missing file as zeros.

        Raises:
            DataError: one of them cannot be trusted.
        """
        found = await asyncio.gather(*(self.get(key, prototype, one) for one in byte_ranges))
        yield list(enumerate(found))

    def remembered(self, key: str, byte_range: "ByteRequest | None") -> bytes | None:
        """Bytes that need not be fetched again."""
        return None

    def admit(self, key: str, byte_range: "ByteRequest | None", value: Any) -> Any:
        """Check what was fetched, and return it; None if there is no such file."""
        raise NotImplementedError


class GuardedStore(CheckedStore):
    """A read-only Zarr store that knows from the manifest what must be in it.

    A shard is read as its index (the last bytes of the file) and then the chunks that are read.
    The index is compared with its digest, so a shard that was cut, emptied or swapped is noticed
    before a chunk of it is used; then the index is kept. Chunks carry checksums of their own.

    Args:
        store: the store.
        files: the manifest's files.
        location: what to call the store in errors.
    """

    def __init__(self, store: "Store", files: "Mapping[str, FileInfo]", location: str) -> None:
        super().__init__(store)
        self._files, self._location = files, location
        self._indexes: dict[str, bytes] = {}

    def _with_store(self, store: "Store") -> "GuardedStore":
        return GuardedStore(store, self._files, self._location)

    def remembered(self, key: str, byte_range: "ByteRequest | None") -> bytes | None:
        """The index of a shard that was read from before."""
        return self._indexes.get(key) if isinstance(byte_range, SuffixByteRequest) else None

    def admit(self, key: str, byte_range: "ByteRequest | None", value: Any) -> Any:
        """Refuse a missing file, and an index that is not the one that was built."""
        info = self._files.get(key)
        if value is None and info is not None:
            raise DataError(f"{self._location}: {key} is missing. {REPAIR}")
        if value is None or info is None or not info.index_bytes:
            return value
        if byte_range is None:  # a whole shard
            self._check_index(key, value.to_bytes()[-info.index_bytes :])
        elif isinstance(byte_range, SuffixByteRequest):
            self._check_index(key, value.to_bytes())
            if len(self._indexes) >= CACHED_INDEXES:
                self._indexes.pop(next(iter(self._indexes)))
            self._indexes[key] = value.to_bytes()
        return value

    def _check_index(self, key: str, index: bytes) -> None:
        expected = self._files.get(key)
        if expected is None or expected.index != index_digest(index):
            raise DataError(
                f"{self._location}: {key} is damaged at its end, or is not the shard that was "
                f"built. {REPAIR}"
            )
