"""Slices of files of ready ids, and copying one into what a build resumes from."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tttscale.data.builder.source_slices import grouped, slice_bytes
from tttscale.data.builder.tally import Tally
from tttscale.data.builder.tokenized import TokenizedSlice
from tttscale.data.ids.id_file import IdFile
from tttscale.data.ids.segments import DOCUMENTS, Segment, Separators, segments
from tttscale.data.workers import Meter
from tttscale.errors import DataError
from tttscale.files import digest, replaced
from tttscale.reading import reason

Stamp = tuple[str, int, int]
"""Path, size and time of change of a file."""


@dataclass(frozen=True)
class IdRange:
    """Documents of a file: with an index [begin, end) of them, else those that begin at ids [begin, end)."""

    file: IdFile
    begin: int
    end: int
    size_bytes: int
    """Their share of the file, about."""


@dataclass(frozen=True)
class IdSlice:
    """Consecutive ranges of files that one worker copies."""

    name: str
    """A hexadecimal hash of the files' paths, sizes and times, the ranges and what else decides the ids."""
    ranges: tuple[IdRange, ...]
    """What to copy, in order."""
    stamps: tuple["Stamp", ...]
    """What its files were when it was cut."""

    @property
    def size_bytes(self) -> int:
        """Its bytes on disk."""
        return sum(one.size_bytes for one in self.ranges)


def cut_id_files(files: Sequence[IdFile], identity: Sequence[Any]) -> list[IdSlice]:
    """Cut files into slices: a pure function of the files.

    Args:
        files: in reading order.
        identity: what else decides what is stored.

    Raises:
        DataError: the metadata of a file cannot be read.
    """
    size = slice_bytes(sum(file.ids.count * file.ids.item_bytes for file in files))
    stamps = {file.path: [_stamp(path) for path in (file.path, *file.beside)] for file in files}
    slices = []
    for group in grouped((one for file in files for one in _ranges(file, size)), size):
        known = [[stamps[r.file.path], r.file.ids.dtype, r.begin, r.end] for r in group]
        text = json.dumps([list(identity), known])
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        read = dict.fromkeys(stamp for r in group for stamp in stamps[r.file.path])
        slices.append(IdSlice(name, group, tuple(read)))
    return slices


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"source {path}: {reason(error)}.") from error
    return str(path), stat.st_size, stat.st_mtime_ns


def _ranges(file: IdFile, size_bytes: int) -> Iterator[IdRange]:
    item, step = file.ids.item_bytes, size_bytes // file.ids.item_bytes
    if file.ends is None:
        for begin in range(0, max(file.ids.count, 1), step):
            end = min(begin + step, file.ids.count)
            yield IdRange(file, begin, end, (end - begin) * item)
        return
    begin = filled = 0
    for first in range(0, file.ends.count, DOCUMENTS):
        ends = file.ends.read(first, min(first + DOCUMENTS, file.ends.count))
        while (place := int(np.searchsorted(ends, filled + step))) < len(ends):
            end = first + place + 1
            yield IdRange(file, begin, end, (int(ends[place]) - filled) * item)
            begin, filled = end, int(ends[place])
    if begin < file.ends.count or not begin:
        yield IdRange(file, begin, file.ends.count, (file.ids.count - filled) * item)


def copy_slice(
    target: TokenizedSlice, source: IdSlice, vocab_size: int, separators: Separators, meter: Meter
) -> None:
    """Copy the ids of `source` to `target`, and note where documents end.

    Raises:
        DataError: an id is outside the vocabulary, or a file changed. `target` is then not done.
    """
    tally = Tally()
    with replaced(target.tokens_path) as file:
        documents = _Documents(file, target.dtype, separators.eos, tally)
        for one in source.ranges:
            _note(one, tally)
            first = len(documents.rows)
            for segment in segments(one.file, one.begin, one.end, separators):
                _check_ids(segment, one, vocab_size)
                before = len(documents.rows)
                documents.add(segment, str(one.file.path))
                size = len(segment.ids) * one.file.ids.item_bytes
                meter.add(len(documents.rows) - before, size, len(segment.ids))
            if _is_unseparated(one, documents.rows[first:], separators):
                tally.count("unseparated", str(one.file.path))
        _check_unchanged(source)
    target.finish(documents.rows, tally)


def _check_unchanged(source: IdSlice) -> None:
    """Refuse what is partly of one content of a file and partly of the next, which no digest would show."""
    for stamp in source.stamps:
        if _stamp(Path(stamp[0])) != stamp:
            raise DataError(
                f"source {stamp[0]}: it was changed while it was read. Start the same command again when "
                "nothing writes it any more."
            )


def _note(one: IdRange, tally: Tally) -> None:
    """Note what is said once for a file, where it begins."""
    if one.begin:
        return
    for path in (one.file.path, *one.file.beside):
        tally.digests[str(path)] = digest(path)
    tally.count("masked", str(one.file.path), int(one.file.has_mask))


def _is_unseparated(
    one: IdRange, rows: Sequence[tuple[int, int, int]], separators: Separators
) -> bool:
    """Whether a file has no index and neither bos nor eos, though there are such tokens."""
    ids = one.file.ids
    if one.file.ends is not None or one.begin or separators == (None, None):
        return False
    if not ids.count or len(rows) != 1 or rows[0][0] != ids.count:
        return False
    begins, ends = (int(ids.read(i, i + 1)[0]) for i in (0, ids.count - 1))
    return begins != separators.bos and ends != separators.eos


def _check_ids(segment: Segment, one: IdRange, vocab_size: int) -> None:
    """Check before the cast to the store's dtype, which would wrap -1 to 65535 silently."""
    ids = segment.ids
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        bad = ids[(ids < 0) | (ids >= vocab_size)][0]
        says = (
            one.file.beside or one.file.path.suffix.lower() == ".npy"
        )  # files that say their dtype
        dtype = "" if says else ", or their dtype with --dtype"
        raise DataError(
            f"source {one.file.path}: id {bad}, outside [0, {vocab_size:,}), the tokenizer's ids. Name the "
            f"tokenizer that made them with --tokenizer (or --vocab-size){dtype}."
        )


class _Documents:
    """The documents of a slice, written one after the other."""

    def __init__(self, file: IO[bytes], dtype: np.dtype, eos: int | None, tally: Tally) -> None:
        self._file, self._dtype, self._eos, self._tally = file, dtype, eos, tally
        self.rows: list[tuple[int, int, int]] = []
        """Tokens, bytes of text (not known: 0) and hash of each document."""
        self._length, self._last = 0, None
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, segment: Segment, origin: str) -> None:
        """Write the ids of a segment, and end documents where it says so."""
        ids = segment.ids.astype(self._dtype)
        self._file.write(ids.data)
        at = 0
        for end in segment.ends.tolist():
            self._extend(ids[at:end])
            self._end(origin)
            at = end
        self._extend(ids[at:])

    def _extend(self, ids: np.ndarray) -> None:
        if len(ids):
            self._hash.update(ids.data)
            self._length, self._last = self._length + len(ids), int(ids[-1])

    def _end(self, origin: str) -> None:
        self._tally.documents += 1
        if self._length:
            self.rows.append((self._length, 0, int.from_bytes(self._hash.digest(), "little")))
            unended = self._eos is not None and self._last != self._eos
            self._tally.count("not_ended", origin, int(unended))
        else:
            self._tally.count("no_tokens", origin)
        self._length, self._last = 0, None
        self._hash = hashlib.blake2b(digest_size=8)
