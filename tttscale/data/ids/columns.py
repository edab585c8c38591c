"""Integers that stand one after the other in a file, read block by block."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tttscale.errors import DataError
from tttscale.files import open_ordinary
from tttscale.reading import reason

BLOCK = 1 << 20
"""Most integers that are read at once."""


@dataclass(frozen=True)
class Column:
    """`count` integers in a file, from a byte on."""

    path: Path
    """The file."""
    offset_bytes: int
    """Where the first one begins."""
    dtype: str
    """Dtype of one integer, little-endian, such as "<u2"."""
    count: int
    """How many there are."""

    @property
    def item_bytes(self) -> int:
        """Bytes of one integer."""
        return np.dtype(self.dtype).itemsize

    @property
    def end_bytes(self) -> int:
        """Where the last one ends."""
        return self.offset_bytes + self.count * self.item_bytes

    def read(self, begin: int, end: int) -> np.ndarray:
        """Integers [begin, end) in their own dtype.

        Raises:
            DataError: the file cannot be read, or is shorter than it was.
        """
        assert 0 <= begin <= end <= self.count, (begin, end, self.count)
        size = self.item_bytes
        data = read_at(self.path, self.offset_bytes + begin * size, (end - begin) * size)
        return np.frombuffer(data, self.dtype)

    def blocks(self, begin: int = 0, end: int | None = None) -> Iterator[np.ndarray]:
        """Yield the integers [begin, end) in blocks, in their own dtype."""
        end = self.count if end is None else end
        for at in range(begin, end, BLOCK):
            yield self.read(at, min(at + BLOCK, end))

    def values_at(self, places: np.ndarray) -> np.ndarray:
        """The integers at ascending `places` [n], int64 [n], read in blocks."""
        found = np.empty(len(places), np.int64)
        at = 0
        while at < len(places):
            first = int(places[at])
            stop = int(np.searchsorted(places, first + BLOCK))
            block = self.read(first, int(places[stop - 1]) + 1)
            found[at:stop] = block[places[at:stop] - first]
            at = stop
        return found


def file_bytes(path: Path) -> int:
    """Size of a file.

    Raises:
        DataError: it is missing, or not an ordinary file.
    """
    try:
        with open_ordinary(path) as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise unreadable(path, error) from None


def read_at(path: Path, offset_bytes: int, size_bytes: int) -> bytes:
    """Exactly `size_bytes` of a file.

    Raises:
        DataError: it cannot be read, or ends before.
    """
    data = read_up_to(path, offset_bytes, size_bytes)
    if len(data) != size_bytes:
        raise DataError(
            f"source {path}: it ends at byte {offset_bytes + len(data):,}, before byte "
            f"{offset_bytes + size_bytes:,}: it is cut short, or was changed meanwhile. Fetch it again."
        )
    return data


def read_up_to(path: Path, offset_bytes: int, size_bytes: int) -> bytes:
    """At most `size_bytes` of a file; fewer only where it ends.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open_ordinary(path) as file:
            file.seek(offset_bytes)
            return file.read(size_bytes)
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that the system does not let us read."""
    return DataError(f"source {path}: {reason(error)}. Correct the path, or its permissions.")


def damaged(path: Path, what: str) -> DataError:
    """The error for a file that is not what its kind says."""
    return DataError(f"source {path}: {what}. Fetch it again, write it again, or leave it out.")
