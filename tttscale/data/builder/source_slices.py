"""Cutting the sources into pieces of work, whose names say exactly what is in them."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tttscale.data.builder.documents import Span, parquet_file
from tttscale.data.builder.file_formats import Formats, Kind, is_compressed
from tttscale.errors import DataError

SMALLEST_BYTES, LARGEST_BYTES = 1 << 20, 1 << 26
PIECES = 512
"""About as many pieces are made of a corpus that is not tiny: fine enough to share and to resume."""


@dataclass(frozen=True)
class Piece:
    """Consecutive spans that are tokenized in one go.

    Attributes:
        name: Hexadecimal; another one if a file's size or time, the span or the recipe differs.
        spans: What to read, in order.
    """

    name: str
    spans: tuple[Span, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes on disk behind it."""
        return sum(span.size_bytes for span in self.spans)


def cut(
    files: Sequence[Path], recipe: Sequence[Any], formats: Formats | None = None
) -> list[Piece]:
    """Cuts `files` into pieces, a pure function of the files and nothing else.

    Args:
        files: In reading order.
        recipe: What else decides the ids: the tokenizer's digest, the text's key.
        formats: How files are read; None leaves it to their names.

    Raises:
        DataError: A file cannot be looked at.
    """
    try:
        stats = {str(file): file.stat() for file in files}
    except OSError as error:
        raise DataError(f"source {error.filename}: {error.strerror}.") from error
    total = sum(stats[str(file)].st_size for file in files)
    size = min(max(SMALLEST_BYTES, _power_of_two(total // PIECES)), LARGEST_BYTES)
    formats = formats or Formats()
    spans = (
        span
        for file in files
        for span in _spans(str(file), formats.declared(file), stats[str(file)].st_size, size)
    )
    pieces = []
    for group in _group(spans, size):
        identity = [(s.path, *_identity(stats[s.path]), s.begin, s.end, s.declared) for s in group]
        text = json.dumps([list(recipe), identity])
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        pieces.append(Piece(name, group))
    return pieces


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _power_of_two(value: int) -> int:
    return 1 << value.bit_length()


def _spans(path: str, declared: Kind | None, file_bytes: int, piece_bytes: int) -> Iterator[Span]:
    whole = Span(path, 0, file_bytes, file_bytes, declared)
    if whole.kind == "parquet":
        groups = parquet_file(path).metadata.num_row_groups
        for group in range(groups):
            yield Span(path, group, group + 1, file_bytes // groups, declared)
    elif whole.kind == "jsonl" and not is_compressed(path):
        for begin in range(0, file_bytes, piece_bytes):
            end = min(begin + piece_bytes, file_bytes)
            yield Span(path, begin, end, end - begin, declared)
    else:
        yield whole


def _group(spans: Iterable[Span], piece_bytes: int) -> Iterator[tuple[Span, ...]]:
    group: list[Span] = []
    filled = 0
    for span in spans:
        if group and filled + span.size_bytes > piece_bytes:
            yield tuple(group)
            group, filled = [], 0
        group.append(span)
        filled += span.size_bytes
    if group:
        yield tuple(group)
