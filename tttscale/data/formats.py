"""Documents out of one span of a file: text, JSON lines, Parquet, plain or compressed."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from tttscale.errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

Kind = Literal["text", "jsonl", "parquet"]
PARQUET_ROWS = 256
"""Rows decoded at a time: texts of a megabyte each still fit."""


class Document(NamedTuple):
    """One text.

    Attributes:
        origin: Where it comes from: the file, and the line or row in it.
        data: Its bytes; UTF-8 unless a text file holds something else.
    """

    origin: str
    data: bytes


@dataclass(frozen=True)
class Span:
    """A part of a file that one worker reads.

    Attributes:
        path: The file.
        begin: Where it begins: a byte of uncompressed JSON lines, a row group of Parquet, else 0.
        end: Where it ends, exclusive; a line belongs to the span in which it begins.
        size_bytes: Its share of the bytes on disk.
    """

    path: str
    begin: int
    end: int
    size_bytes: int


def kind_of(path: str | Path) -> Kind:
    """How the file is read, by its name."""
    kinds: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    return kinds.get(bare_suffix(path), "text")


def bare_suffix(path: str | Path) -> str:
    """The ending of the name in lower case, without that of the compression."""
    path = Path(path)
    return (Path(path.stem).suffix if is_compressed(path) else path.suffix).lower()


def is_compressed(path: str | Path) -> bool:
    """Whether the file can only be read from its beginning."""
    return Path(path).suffix.lower() in (".gz", ".zst")


def read_span(span: Span, text_key: str) -> Iterator[Document]:
    """Yields every document of `span` that has any text.

    Args:
        span: The part of a file.
        text_key: Key of the text in a JSON line, column of it in Parquet.

    Raises:
        DataError: A line or a row is bad, or the file cannot be read.
    """
    readers = {"text": _whole, "jsonl": _json_lines, "parquet": _parquet}
    yield from (d for d in readers[kind_of(span.path)](span, text_key) if d.data)


def parquet_file(path: str | Path) -> "ParquetFile":
    """Opens a Parquet file.

    Raises:
        DataError: It is none, or pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"source {path}: reading Parquet needs pyarrow. Run `pip install pyarrow`, or in a "
            "checkout `pip install -e '.[parquet]'`."
        ) from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"source {path}: not a Parquet file that can be read: {error}.") from error


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    # backports.zstd notices a file that was cut short; zstandard's reader takes it for whole.
    from backports import zstd

    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".zst": zstd.open}
    try:
        with openers.get(Path(path).suffix.lower(), open)(path, "rb") as file:
            yield file
    except (OSError, EOFError, zstd.ZstdError) as error:
        raise DataError(f"source {path}: {error}. Fetch it again, or leave it out.") from error


def _whole(span: Span, text_key: str) -> Iterator[Document]:
    with _opened(span.path) as file:
        data = file.read()
    yield Document(span.path, data)


def _json_lines(span: Span, text_key: str) -> Iterator[Document]:
    whole = is_compressed(span.path)
    with _opened(span.path) as file:
        at = 0
        if span.begin:
            # The line that a span begins in the middle of belongs to the span before.
            file.seek(span.begin - 1)
            at = span.begin - 1 + len(file.readline())
        while whole or at < span.end:
            line = file.readline()
            if not line:
                return
            if not line.isspace():
                yield Document(f"{span.path} at byte {at}", _text_of(line, text_key, span.path, at))
            at += len(line)


def _text_of(line: bytes, text_key: str, path: str, at: int) -> bytes:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError(f"expected an object, found {type(record).__name__}")
        if text_key not in record:
            raise ValueError(f"no key {text_key!r}, only {', '.join(sorted(record)) or 'none'}")
        return _utf8(record[text_key], text_key)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}:{_line_number(path, at)}: bad JSON line: {error}. Mend the line, or name the "
            "text's key with --text-key."
        ) from error


def _utf8(text: Any, name: str) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"{name!r} is {type(text).__name__}, not a string")
    return text.encode()  # UnicodeEncodeError (a ValueError): a lone surrogate


def _line_number(path: str, at: int) -> int:
    """Line that begins at byte `at`; counted only when there is something to complain about."""
    with _opened(path) as file:
        lines = 1
        while at > 0 and (block := file.read(min(at, 1 << 20))):
            lines += block.count(b"\n")
            at -= len(block)
    return lines


def _parquet(span: Span, text_key: str) -> Iterator[Document]:
    file = parquet_file(span.path)
    names = file.schema_arrow.names
    if text_key not in names:
        raise DataError(
            f"source {span.path}: no column {text_key!r}, only {', '.join(names)}. Name the "
            "text's column with --text-key."
        )
    rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    row = sum(rows[: span.begin])
    groups = list(range(span.begin, span.end))
    try:
        for batch in file.iter_batches(PARQUET_ROWS, row_groups=groups, columns=[text_key]):
            for text in batch.column(0).to_pylist():
                yield Document(f"{span.path} row {row}", _utf8(text, text_key))
                row += 1
    except (ValueError, OSError) as error:  # pyarrow's own are both
        raise DataError(
            f"source {span.path} row {row}: {error}. Mend the row, or name the text's column with "
            "--text-key."
        ) from error
