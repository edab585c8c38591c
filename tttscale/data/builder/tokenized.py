"""One piece of the sources as tokens on disk: what a build that was killed goes on from."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.lib.npyio import NpzFile

from tttscale.data.builder.documents import (
    LONGEST_BYTES,
    UNDECODABLE,
    Bad,
    Document,
    Remark,
    read_all,
)
from tttscale.data.builder.source_slices import Piece
from tttscale.data.builder.tally import Notes
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import DataError
from tttscale.files import open_ordinary, replaced, sync
from tttscale.reading import parse_json, reason

BATCH_BYTES = 1 << 20
"""Text handed to the tokenizer at once."""
_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
LENGTH, TEXT_BYTES, HASH = range(3)
"""Columns of a run's table of documents."""


class Meter(Protocol):
    """Where a worker tells how far it is, and learns that it should stop."""

    def add(self, documents: int, text_bytes: int, tokens: int) -> None:
        """Counts work done; raises KeyboardInterrupt if the build was given up."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How documents become ids: all that decides the content of a run, but for the sources.

    Attributes:
        codec: The tokenizer.
        text_key: Key of the text in JSON lines and Parquet.
        longest_bytes: What a document may have.
        skip_undecodable: Leave out documents that are not UTF-8 instead of refusing them.
        skip_bad: How many other documents may be left out since they are bad.
    """

    codec: Tokenizer
    text_key: str
    longest_bytes: int = LONGEST_BYTES
    skip_undecodable: bool = False
    skip_bad: int = 0

    @property
    def identity(self) -> tuple[str | int | None, ...]:
        """What goes into the names of the pieces: not what may be skipped, which is only counted."""
        codec = self.codec
        return codec.digest, codec.bos_id, codec.eos_id, self.text_key, self.longest_bytes

    def bad_documents(self, notes: Notes) -> int:
        """How many of those left out --skip-bad has to allow."""
        allowed = notes.skipped[UNDECODABLE] if self.skip_undecodable else 0
        return notes.skipped.total() - allowed


class Run:
    """The tokens of one piece, and a table of its documents.

    Args:
        folder: Where runs are kept.
        name: The piece's name.
        dtype: Dtype of the tokens.
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

    def notes(self) -> Notes:
        """What was noticed while it was made."""
        with self._columns() as columns:
            return Notes.of_json(parse_json(str(columns["notes"]).encode()))

    def tokens(self) -> np.ndarray:
        """All tokens, mapped from disk."""
        if not self.tokens_path.stat().st_size:
            return np.empty(0, self.dtype)
        return np.memmap(self.tokens_path, self.dtype, mode="r")

    @contextmanager
    def _columns(self) -> "Iterator[NpzFile]":
        """The table's file.

        Raises:
            DataError: It is not what `make_run` wrote.
        """
        try:
            with open_ordinary(self.table_path) as file:
                size = os.fstat(file.fileno()).st_size
                with np.load(file, allow_pickle=False) as columns:
                    if not isinstance(columns, NpzFile) or columns.zip is None:
                        raise ValueError("not a table")
                    if any(member.file_size > size for member in columns.zip.infolist()):
                        raise ValueError("it is larger inside than outside")
                    yield columns
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, *_ZIP) as error:
            raise DataError(
                f"{self.table_path}: damaged: {reason(error)}. Remove this file and rerun the same "
                "command: it goes on from what is done, and makes this piece again."
            ) from None


def make_run(run: Run, piece: Piece, recipe: Recipe, meter: Meter) -> None:
    """Tokenizes `piece` into `run`.

    Raises:
        DataError: A document is bad, or more of them than may be. The run is then not done.
    """
    rows: list[tuple[int, int, int]] = []
    notes = Notes()
    with replaced(run.tokens_path) as file:
        for batch in _batches(piece, recipe, notes):
            tokens = 0
            for document, ids in zip(batch, _encode(batch, recipe, notes), strict=True):
                if ids is None:
                    continue
                rows.append((len(ids), len(document.data), content_hash(document.data)))
                file.write(ids.astype(run.dtype).data)
                tokens += len(ids)
                if b"\0" in document.data:
                    notes.count("binary", document.origin)
            meter.add(len(batch), sum(len(d.data) for d in batch), tokens)
    table = np.array(rows, np.uint64).reshape(-1, 3)
    with replaced(run.table_path) as file:
        np.savez(file, documents=table, notes=json.dumps(notes.as_json()))  # type: ignore[arg-type]
    sync(run.table_path.parent)


def _batches(piece: Piece, recipe: Recipe, notes: Notes) -> Iterator[list[Document]]:
    """Documents with text; the others are counted."""
    batch: list[Document] = []
    size = 0
    for span in piece.spans:
        for found in read_all(span, recipe.text_key, recipe.longest_bytes):
            notes.documents += not isinstance(found, Remark)
            if isinstance(found, Remark):
                notes.count(*found)
            elif isinstance(found, Bad):
                _leave_out(found, recipe, notes)
            elif not found.data:
                notes.count("empty", found.origin)
            else:
                batch.append(found)
                size += len(found.data)
                if size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
    if batch:
        yield batch


def _encode(batch: list[Document], recipe: Recipe, notes: Notes) -> Iterator[np.ndarray | None]:
    """Ids of each document between bos and eos; None if it is left out, which is counted."""
    codec = recipe.codec
    before, after = ([] if i is None else [i] for i in (codec.bos_id, codec.eos_id))
    found = codec.encode_counted([d.data for d in batch])
    for document, (ids, lost) in zip(batch, found, strict=True):
        for what, number in lost.items():
            notes.count(what, document.origin, number)
        if ids is None:
            _leave_out(_undecodable(document, codec), recipe, notes)
            yield None
        elif not len(ids):
            notes.count("tokenless", document.origin)
            yield None
        else:
            _check_ids(ids, codec, document.origin)
            yield np.concatenate([np.array(before, ids.dtype), ids, np.array(after, ids.dtype)])


def _leave_out(bad: Bad, recipe: Recipe, notes: Notes) -> None:
    """Counts a bad document, if it may be left out.

    Raises:
        DataError: It may not.
    """
    notes.skip(bad)
    if recipe.bad_documents(notes) > recipe.skip_bad:
        if recipe.skip_bad:
            raise too_many(recipe, notes, f"{recipe.bad_documents(notes):,} or more", bad)
        bad.refuse()


def too_many(recipe: Recipe, notes: Notes, found: str, example: Bad) -> DataError:
    """The error for more bad documents than may be left out."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(notes.skipped.items()))
    return DataError(
        f"--skip-bad {recipe.skip_bad}: {found} documents are bad ({reasons}), such as "
        f"{example.place()}: {example.detail}. Mend them, or give a larger --skip-bad: the same "
        "command goes on from what is done."
    )


def content_hash(data: bytes) -> int:
    """A hash in [0, 2**64) of a document's bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _undecodable(document: Document, codec: Tokenizer) -> Bad:
    try:
        document.data.decode()
        reason = "its encoder refused it"
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
    detail = f"not UTF-8 ({reason}), which tokenizer {codec.name} needs"
    return Bad(document.origin, 0, "text", UNDECODABLE, detail)


def _check_ids(ids: np.ndarray, codec: Tokenizer, origin: str) -> None:
    """Checks before the cast to the store's dtype, which would wrap -1 to 65535 without a word."""
    bad = np.flatnonzero((ids < 0) | (ids >= codec.vocab_size))
    if len(bad):
        raise DataError(
            f"{origin}: tokenizer {codec.name} gave id {ids[bad[0]]} at token {bad[0]}, outside "
            f"[0, {codec.vocab_size}). Mend the tokenizer given with --tokenizer."
        )
