"""Cutting the sources into slices, whose names say exactly what is in them."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tttscale.data.builder.documents import FileRange
from tttscale.data.builder.file_formats import FileFormats, Kind, is_compressed
from tttscale.data.builder.parquet_rows import parquet_file
from tttscale.errors import DataError

SMALLEST_BYTES, LARGEST_BYTES = 1 << 20, 1 << 26
SLICES = 512
"""About as many slices a corpus that is not tiny is cut into: fine enough to share and to resume."""


@dataclass(frozen=True)
class SourceSlice:
    """Consecutive ranges of files that one worker tokenizes."""

    name: str
    """A hexadecimal hash of the files' paths, sizes and times, the ranges and the recipe."""
    file_ranges: tuple[FileRange, ...]
    """What to read, in order."""

    @property
    def size_bytes(self) -> int:
        """Its bytes on disk."""
        return sum(file_range.size_bytes for file_range in self.file_ranges)


class Sized(Protocol):
    """A range of a file."""

    @property
    def size_bytes(self) -> int:
        """Its share of the bytes on disk."""
        ...


Range = TypeVar("Range", bound=Sized)


def slice_bytes(total_bytes: int) -> int:
    """About how large the slices of sources with so many bytes are."""
    wanted = 1 << (total_bytes // SLICES).bit_length()
    return min(max(SMALLEST_BYTES, wanted), LARGEST_BYTES)


def cut_sources(
    files: Sequence[Path], recipe: Sequence[Any], formats: FileFormats | None = None
) -> list[SourceSlice]:
    """Cut `files` into slices: a pure function of the files.

    Args:
        files: in reading order.
        recipe: what else decides the ids: the tokenizer's digest, the text's key.
        formats: how files are read; None leaves it to their names.

    Raises:
        DataError: the metadata of a file cannot be read.
    """
    try:
        stats = {str(file): file.stat() for file in files}
    except OSError as error:
        raise DataError(f"source {error.filename}: {error.strerror}.") from error
    size = slice_bytes(sum(stats[str(file)].st_size for file in files))
    formats = formats or FileFormats()
    ranges = (
        file_range
        for file in files
        for file_range in _file_ranges(
            str(file), formats.declared(file), stats[str(file)].st_size, size
        )
    )
    slices = []
    for group in grouped(ranges, size):
        identity = [(r.path, *_identity(stats[r.path]), r.begin, r.end, r.declared) for r in group]
        text = json.dumps([list(recipe), identity])
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        slices.append(SourceSlice(name, group))
    return slices


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _file_ranges(
    path: str, declared: Kind | None, file_bytes: int, slice_bytes: int
) -> Iterator[FileRange]:
    whole = FileRange(path, 0, file_bytes, file_bytes, declared)
    if whole.kind == "parquet":
        groups = parquet_file(path).metadata.num_row_groups
        for group in range(groups):
            yield FileRange(path, group, group + 1, file_bytes // groups, declared)
    elif whole.kind == "jsonl" and not is_compressed(path):
        for begin in range(0, file_bytes, slice_bytes):
            end = min(begin + slice_bytes, file_bytes)
            yield FileRange(path, begin, end, end - begin, declared)
    else:
        yield whole


def grouped(ranges: Iterable[Range], slice_bytes: int) -> Iterator[tuple[Range, ...]]:
    """Yield consecutive ranges together, as many as come to `slice_bytes` at most; a large one alone."""
    group: list[Range] = []
    filled = 0
    for file_range in ranges:
        if group and filled + file_range.size_bytes > slice_bytes:
            yield tuple(group)
            group, filled = [], 0
        group.append(file_range)
        filled += file_range.size_bytes
    if group:
        yield tuple(group)
