"""Arrays on disk: whole shards, each compressed and written once."""

from typing import TYPE_CHECKING

import numpy as np

from tttscale.data.manifest import SplitInfo

if TYPE_CHECKING:
    import zarr


class ShardWriter:
    """Appends to one 1-D array, buffering a shard so that each is compressed and written once.

    Args:
        group: Where the array goes.
        name: Its name.
        dtype: Its dtype; values are cast without a check.
        chunk: Values per inner chunk, the unit of reading.
        shard: Values per shard (one file), a multiple of `chunk`.
    """

    def __init__(self, group: "zarr.Group", name: str, dtype: str, chunk: int, shard: int) -> None:
        self._group, self._name, self._chunk = group, name, chunk
        self._buffer = np.empty(shard, dtype)  # the system gives it memory as it fills
        self._filled = 0
        self._array: zarr.Array | None = None
        self.total = 0

    def append(self, values: np.ndarray) -> None:
        """Adds `values` [n] behind what is already there."""
        self.total += len(values)
        while len(values):
            taken = min(len(values), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = values[:taken]
            self._filled += taken
            values = values[taken:]
            if self._filled == len(self._buffer):
                self._flush()

    def close(self) -> None:
        """Writes the last shard; an array that got no value is written too, empty."""
        if self._filled or self._array is None:
            self._flush()

    def _flush(self) -> None:
        if self._array is None:
            self._array = self._create()
        begin, values = self._array.shape[0], self._buffer[: self._filled]
        self._array.resize((begin + self._filled,))
        self._array[begin:] = values
        self._filled = 0

    def _create(self) -> "zarr.Array":
        from zarr.codecs import ZstdCodec

        chunks_needed = max(1, -(-self._filled // self._chunk))
        return self._group.create_array(
            self._name,
            shape=(0,),
            dtype=self._buffer.dtype,
            chunks=(self._chunk,),
            shards=(chunks_needed * self._chunk,),
            # Without the checksum, a flipped bit gives other tokens in 254 of 256 cases.
            compressors=ZstdCodec(level=1, checksum=True),
            # A shard of zeros must be a file like any other, or it would look lost.
            config={"write_empty_chunks": True},
        )


class SplitWriter:
    """Writes one split: `tokens`, and `document_starts`, the offset of each document's first one.

    Args:
        group: The split's own group.
        dtype: Dtype of the tokens.
        chunk: Values per inner chunk.
        shard: Values per shard.
    """

    def __init__(self, group: "zarr.Group", dtype: str, chunk: int, shard: int) -> None:
        self._tokens = ShardWriter(group, "tokens", dtype, chunk, shard)
        self._starts = ShardWriter(group, "document_starts", "uint64", chunk, shard)
        self._text_bytes = 0

    def append(self, ids: np.ndarray, text_bytes: int) -> None:
        """Adds a document: its ids [n], n > 0, made of `text_bytes` bytes of text."""
        self._starts.append(np.array([self._tokens.total], np.uint64))
        self._tokens.append(ids)
        self._text_bytes += text_bytes

    def close(self) -> SplitInfo:
        """Writes what is left and tells the sizes."""
        self._tokens.close()
        self._starts.close()
        return SplitInfo(
            documents=self._starts.total, tokens=self._tokens.total, text_bytes=self._text_bytes
        )
