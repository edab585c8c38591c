"""One piece of the sources as tokens on disk: what a build that was killed goes on from."""

import hashlib
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

from tttscale.data.formats import Document, read_span
from tttscale.data.pieces import Piece
from tttscale.data.tokenizer import Tokenizer
from tttscale.errors import DataError
from tttscale.files import open_ordinary, replaced, sync
from tttscale.reading import reason

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
        skip_undecodable: Leave out documents that are not UTF-8 instead of refusing them.
    """

    codec: Tokenizer
    text_key: str
    skip_undecodable: bool

    @property
    def identity(self) -> tuple[str, str, bool]:
        """What goes into the names of the pieces."""
        return self.codec.digest, self.text_key, self.skip_undecodable


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

    def skipped(self) -> int:
        """Documents left out."""
        with self._columns() as columns:
            return int(columns["skipped"])

    def binary(self) -> tuple[int, str]:
        """Documents with NUL bytes, which text has none of, and where the first comes from."""
        with self._columns() as columns:  # or an older run, without these
            return int(columns.get("binary", 0)), str(columns.get("first_binary", ""))

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
        DataError: A document is bad. The run is then not done.
    """
    rows: list[tuple[int, int, int]] = []
    skipped, binary, first_binary = 0, 0, ""
    with replaced(run.tokens_path) as file:
        for batch in _batches(piece, recipe.text_key):
            tokens = 0
            for document, ids in zip(batch, _encode(batch, recipe), strict=True):
                if ids is None:
                    skipped += 1
                elif len(ids):
                    rows.append((len(ids), len(document.data), content_hash(document.data)))
                    file.write(ids.astype(run.dtype).data)
                    tokens += len(ids)
                    if b"\0" in document.data:
                        binary, first_binary = binary + 1, first_binary or document.origin
            meter.add(len(batch), sum(len(d.data) for d in batch), tokens)
    table = np.array(rows, np.uint64).reshape(-1, 3)
    with replaced(run.table_path) as file:
        columns = {"documents": table, "skipped": skipped}
        np.savez(file, **columns, binary=binary, first_binary=first_binary)  # type: ignore[arg-type]
    sync(run.table_path.parent)


def _batches(piece: Piece, text_key: str) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for span in piece.spans:
        for document in read_span(span, text_key):
            batch.append(document)
            size += len(document.data)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _encode(batch: list[Document], recipe: Recipe) -> Iterator[np.ndarray | None]:
    """Ids of each document between bos and eos; empty if it has none, None if it is skipped."""
    codec = recipe.codec
    before, after = ([] if i is None else [i] for i in (codec.bos_id, codec.eos_id))
    for document, ids in zip(batch, codec.encode_batch([d.data for d in batch]), strict=True):
        if ids is None and not recipe.skip_undecodable:
            _refuse_undecodable(document, codec)
        if ids is None or not len(ids):
            yield ids
            continue
        _check_ids(ids, codec, document.origin)
        yield np.concatenate([np.array(before, ids.dtype), ids, np.array(after, ids.dtype)])


def content_hash(data: bytes) -> int:
    """A hash in [0, 2**64) of a document's bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _refuse_undecodable(document: Document, codec: Tokenizer) -> None:
    try:
        document.data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{document.origin}: not UTF-8 ({error.reason} at byte {error.start}), which "
            f"tokenizer {codec.name} needs. Leave it out with --skip-undecodable or --suffix, or "
            "use --tokenizer bytes."
        ) from error


def _check_ids(ids: np.ndarray, codec: Tokenizer, origin: str) -> None:
    """Checks before the cast to the store's dtype, which would wrap -1 to 65535 without a word."""
    bad = np.flatnonzero((ids < 0) | (ids >= codec.vocab_size))
    if len(bad):
        raise DataError(
            f"{origin}: tokenizer {codec.name} gave id {ids[bad[0]]} at token {bad[0]}, outside "
            f"[0, {codec.vocab_size}). Mend the tokenizer given with --tokenizer."
        )
