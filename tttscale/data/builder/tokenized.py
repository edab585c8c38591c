"""One slice of the sources as tokens on disk: what a build that was killed resumes from."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from tttscale.data.builder.documents import (
    LONGEST_BYTES,
    UNDECODABLE,
    BadDocument,
    Document,
    Finding,
)
from tttscale.data.builder.read_documents import read_all
from tttscale.data.builder.source_slices import SourceSlice
from tttscale.data.builder.tally import Tally
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.data.workers import Meter
from tttscale.errors import DataError
from tttscale.files import open_ordinary, replaced, sync
from tttscale.reading import parse_json, reason

BATCH_BYTES = 1 << 20
"""Text handed to the tokenizer at once."""
_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
LENGTH, TEXT_BYTES, HASH = range(3)
"""Columns of a slice's table of documents."""


@dataclass(frozen=True)
class Recipe:
    """How documents become ids: all that decides a slice's tokens beside its sources."""

    codec: Tokenizer
    """The tokenizer."""
    text_key: str
    """Key of the text in JSON lines and Parquet."""
    longest_bytes: int = LONGEST_BYTES
    """Most bytes of a document."""
    skip_undecodable: bool = False
    """Leave out documents that are not UTF-8 instead of refusing them."""
    skip_bad: int = 0
    """The most other bad documents to leave out."""

    @property
    def identity(self) -> tuple[str | int | None, ...]:
        """What goes into the names of slices: not what may be skipped, which is only counted."""
        codec = self.codec
        return codec.digest, codec.bos_id, codec.eos_id, self.text_key, self.longest_bytes

    def bad_documents(self, tally: Tally) -> int:
        """How many of the documents left out count against --skip-bad."""
        allowed = tally.skipped[UNDECODABLE] if self.skip_undecodable else 0
        return tally.skipped.total() - allowed


class TokenizedSlice:
    """The tokens of one slice of the sources, and a table of its documents.

    Args:
        folder: where tokenized slices are kept.
        name: the slice's name.
        dtype: dtype of the tokens.
    """

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        self.tokens_path = folder / f"{name}.tokens"
        self.table_path = folder / f"{name}.npz"
        self.dtype = np.dtype(dtype).newbyteorder("<")

    @property
    def is_done(self) -> bool:
        """Whether it was written to its end: the table comes last."""
        return self.table_path.is_file()

    def table(self) -> np.ndarray:
        """Tokens, bytes of text and hash of each document, uint64 [documents, 3]."""
        with self._columns() as columns:
            table = columns["documents"]
            if table.dtype != np.uint64 or table.shape[1:] != (3,):
                raise ValueError(f"its documents are {table.dtype} {list(table.shape)}")
            expected = int(table[:, LENGTH].sum()) * self.dtype.itemsize
            size = self.tokens_path.stat().st_size
            if size != expected:
                raise ValueError(f"{self.tokens_path.name} has {size:,} bytes, not {expected:,}")
            return table

    def tally(self) -> Tally:
        """What was left out and noticed while it was tokenized."""
        with self._columns() as columns:
            return Tally.of_json(parse_json(str(columns["notes"]).encode()))

    def tokens(self) -> np.ndarray:
        """All tokens, mapped from disk."""
        if not self.tokens_path.stat().st_size:
            return np.empty(0, self.dtype)
        return np.memmap(self.tokens_path, self.dtype, mode="r")

    def finish(self, rows: Sequence[tuple[int, int, int]], tally: Tally) -> None:
        """Write the table, after the tokens: now the slice is done.

        Args:
            rows: tokens, bytes of text and hash of each document.
            tally: what was left out and noticed.
        """
        table = np.array(rows, np.uint64).reshape(-1, 3)
        with replaced(self.table_path) as file:
            np.savez(file, documents=table, notes=json.dumps(tally.as_json()))  # type: ignore[arg-type]
        sync(self.table_path.parent)

    @contextmanager
    def _columns(self) -> "Iterator[NpzFile]":
        """The table's file.

        Raises:
            DataError: it is not what `tokenize_slice` wrote.
        """
        try:
            with open_ordinary(self.table_path) as file:
                size = os.fstat(file.fileno()).st_size
                with np.load(file, allow_pickle=False) as columns:
                    if not isinstance(columns, NpzFile) or columns.zip is None:
                        raise ValueError("not a table")
                    if any(member.file_size > size for member in columns.zip.infolist()):
                        raise ValueError("its parts are larger than the file")
                    yield columns
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, *_ZIP) as error:
            raise DataError(
                f"{self.table_path}: damaged: {reason(error)}. Remove this file and rerun the same "
                "command: it resumes from what is done, and makes this slice again."
            ) from None


def tokenize_slice(
    target: TokenizedSlice, source: SourceSlice, recipe: Recipe, meter: Meter
) -> None:
    """Tokenize `source` into `target`.

    Raises:
        DataError: a document is bad, or more of them than allowed. `target` is then not done.
    """
    rows: list[tuple[int, int, int]] = []
    tally = Tally()
    with replaced(target.tokens_path) as file:
        for batch in _batches(source, recipe, tally):
            tokens = 0
            for document, ids in zip(batch, _encode(batch, recipe, tally), strict=True):
                if ids is None:
                    continue
                rows.append((len(ids), len(document.data), content_hash(document.data)))
                file.write(ids.astype(target.dtype).data)
                tokens += len(ids)
                if b"\0" in document.data:
                    tally.count("binary", document.origin)
            meter.add(len(batch), sum(len(d.data) for d in batch), tokens)
    target.finish(rows, tally)


def _batches(source: SourceSlice, recipe: Recipe, tally: Tally) -> Iterator[list[Document]]:
    """Yield batches of documents with text; count the others."""
    batch: list[Document] = []
    size = 0
    for file_range in source.file_ranges:
        for found in read_all(file_range, recipe.text_key, recipe.longest_bytes):
            tally.documents += not isinstance(found, Finding)
            if isinstance(found, Finding):
                tally.count(*found)
            elif isinstance(found, BadDocument):
                _leave_out(found, recipe, tally)
            elif not found.data:
                tally.count("empty", found.origin)
            else:
                batch.append(found)
                size += len(found.data)
                if size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
    if batch:
        yield batch


def _encode(batch: list[Document], recipe: Recipe, tally: Tally) -> Iterator[np.ndarray | None]:
    """Yield the ids of each document between bos and eos; None for one that is left out, and count that."""
    codec = recipe.codec
    before, after = ([] if i is None else [i] for i in (codec.bos_id, codec.eos_id))
    found = codec.encode_counted([d.data for d in batch])
    for document, (ids, lost) in zip(batch, found, strict=True):
        for what, number in lost.items():
            tally.count(what, document.origin, number)
        if ids is None:
            _leave_out(_undecodable(document, codec), recipe, tally)
            yield None
        elif not len(ids):
            tally.count("tokenless", document.origin)
            yield None
        else:
            _check_ids(ids, codec, document.origin)
            yield np.concatenate([np.array(before, ids.dtype), ids, np.array(after, ids.dtype)])


def _leave_out(bad: BadDocument, recipe: Recipe, tally: Tally) -> None:
    """Count a bad document that is left out.

    Raises:
        DataError: no more may be left out.
    """
    tally.skip(bad)
    if recipe.bad_documents(tally) > recipe.skip_bad:
        if recipe.skip_bad:
            raise too_many(recipe, tally, f"{recipe.bad_documents(tally):,} or more", bad)
        bad.refuse()


def too_many(recipe: Recipe, tally: Tally, found: str, example: BadDocument) -> DataError:
    """The error for more bad documents than may be left out."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(tally.skipped.items()))
    return DataError(
        f"--skip-bad {recipe.skip_bad}: {found} documents are bad ({reasons}), such as "
        f"{example.place()}: {example.detail}. Mend them, or give a larger --skip-bad: the same "
        "command resumes from what is done."
    )


def content_hash(data: bytes) -> int:
    """A hash in [0, 2**64) of a document's bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _undecodable(document: Document, codec: Tokenizer) -> BadDocument:
    try:
        document.data.decode()
        reason = "its encoder refused it"
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
    detail = f"not UTF-8 ({reason}), which tokenizer {codec.name} needs"
    return BadDocument(document.origin, 0, "text", UNDECODABLE, detail)


def _check_ids(ids: np.ndarray, codec: Tokenizer, origin: str) -> None:
    """Check before the cast to the store's dtype, which would wrap -1 to 65535 silently."""
    bad = np.flatnonzero((ids < 0) | (ids >= codec.vocab_size))
    if len(bad):
        raise DataError(
            f"{origin}: tokenizer {codec.name} gave id {ids[bad[0]]} at token {bad[0]}, outside "
            f"[0, {codec.vocab_size}). Mend the tokenizer given with --tokenizer."
        )
