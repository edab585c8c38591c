"""Documents out of one span of a file: text, JSON lines, Parquet, plain or compressed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tttscale.data.builder.file_formats import Kind, is_compressed, kind_of
from tttscale.data.builder.streams import Stream
from tttscale.errors import DataError
from tttscale.packages import needed, one_line

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PARQUET_ROWS = 256
"""Rows decoded at a time: texts of a megabyte each still fit."""
LONGEST_BYTES = 1 << 30
"""Of one document, or one JSON line, unless a build allows more."""
HEAD_BYTES = 1 << 12
_UTF8_MARK = b"\xef\xbb\xbf"
_CONTAINERS = {
    b"\x1f\x8b\x08": "gzip data",
    b"\x28\xb5\x2f\xfd": "Zstandard data",
    b"\xfd7zXZ\0": "xz data",
    b"BZh91AY&SY": "bzip2 data",
    b"PK\x03\x04": "a zip archive",
    b"PAR1\x15": "Parquet",
    b"ARROW1\0\0": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"%PDF-": "a PDF",
}
"""How files begin that are none of ours, or would have to be read otherwise."""


class Document(NamedTuple):
    """One text.

    Attributes:
        origin: Where it comes from: the file, and the line or row in it.
        data: Its bytes; UTF-8 unless a text file holds something else.
    """

    origin: str
    data: bytes


class Bad(NamedTuple):
    """What should have been a document, and why it is none.

    Attributes:
        path: The file.
        at: Byte where its line begins, or number of its row; 0 for a whole file.
        kind: How the file is read.
        reason: Why, in words for all of the kind, as in "documents that are ...".
        detail: Why, exactly.
    """

    path: str
    at: int
    kind: Kind
    reason: str
    detail: str

    def refuse(self) -> NoReturn:
        """Raises the DataError that names it."""
        raise DataError(f"{self.place()}: {self.detail}. {self.remedy}")

    @property
    def remedy(self) -> str:
        """What to do about it."""
        what = {"jsonl": "line", "parquet": "row", "text": "file"}[self.kind]
        skip = f"Mend the {what}, leave such out with --skip-bad N"
        if self.reason == TOO_LONG:
            return f"{skip}, or allow more with --longest-document."
        if self.reason == UNDECODABLE:
            return "Leave it out with --skip-undecodable or --suffix, or use --tokenizer bytes."
        return f"{skip}, or name the text's key with --text-key; what the file is says --format."

    def place(self) -> str:
        """Where it is: file:line, or the row of a file."""
        if self.kind == "jsonl":
            return f"{self.path}:{line_number(self.path, self.at)}: bad JSON line"
        return f"source {self.path}" + (f" row {self.at}" if self.kind == "parquet" else "")


class Remark(NamedTuple):
    """Something about a file that is worth a word: a key of `SAID`, and where."""

    what: str
    origin: str


TOO_LONG, UNDECODABLE, NOT_JSON, NO_TEXT, NO_STRING, NOT_UNICODE, TWICE = (
    "too long",
    "not UTF-8",
    "not JSON",
    "without the text's key",
    "without a string for text",
    "not Unicode",
    "of two texts",
)


class _UnfitError(ValueError):
    """A line or row that is no document."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Span:
    """A part of a file that one worker reads.

    Attributes:
        path: The file.
        begin: Where it begins: a byte of uncompressed JSON lines, a row group of Parquet, else 0.
        end: Where it ends, exclusive; a line belongs to the span in which it begins.
        size_bytes: Its share of the bytes on disk.
        declared: How the file is read, if `--format` says so; None leaves it to its name.
    """

    path: str
    begin: int
    end: int
    size_bytes: int
    declared: Kind | None = None

    @property
    def kind(self) -> Kind:
        """How the file is read."""
        return self.declared or kind_of(self.path) or "text"


def read_span(span: Span, text_key: str, longest_bytes: int = LONGEST_BYTES) -> Iterator[Document]:
    """Yields every document of `span` that has any text.

    Args:
        span: The part of a file.
        text_key: Key of the text in a JSON line, column of it in Parquet; parts of a nested one
            are joined by dots.
        longest_bytes: What a document may have.

    Raises:
        DataError: A line or a row is bad, or the file cannot be read.
    """
    for found in read_all(span, text_key, longest_bytes):
        if isinstance(found, Bad):
            found.refuse()
        if isinstance(found, Document) and found.data:
            yield found


def read_all(
    span: Span, text_key: str, longest_bytes: int = LONGEST_BYTES
) -> Iterator[Document | Bad | Remark]:
    """Yields every document of `span`, empty ones too, what should have been one, and remarks.

    Raises:
        DataError: The file cannot be read, or holds something else than it is said to.
    """
    readers = {"text": _whole, "jsonl": _json_lines, "parquet": _parquet}
    yield from readers[span.kind](span, text_key, longest_bytes)


def parquet_file(path: str | Path) -> "ParquetFile":
    """Opens a Parquet file.

    Raises:
        DataError: It is none, or pyarrow is not installed.
    """
    remedy = "Run `pip install pyarrow`, or in a checkout `pip install -e '.[parquet]'`."
    with needed("pyarrow", f"source {path}: reading Parquet", remedy):
        import pyarrow  # noqa: F401 (what is missing is found here)
        from pyarrow.parquet import ParquetFile
    try:
        return ParquetFile(path, page_checksum_verification=True)
    except Exception as error:  # pyarrow's own are of many kinds
        raise DataError(
            f"source {path}: not a Parquet file that can be read: {one_line(error)}. Fetch it again, "
            "or leave it out."
        ) from error


def line_number(path: str, at: int) -> int:
    """Line that begins at byte `at`; counted only when there is something to complain about."""
    with Stream(path) as file:
        lines = 1
        while at > 0 and (block := file.read(min(at, 1 << 20))):
            lines += block.count(b"\n")
            at -= len(block)
    return lines


def _head(span: Span, file: Stream) -> bytes:
    """How the file begins, once that is seen to be no other format.

    Raises:
        DataError: It is one.
    """
    head = file.read(HEAD_BYTES)
    found = next((name for magic, name in _CONTAINERS.items() if head.startswith(magic)), None)
    if found:
        inside = " inside" if is_compressed(span.path) else ""
        raise DataError(
            f"source {span.path}: read as {span.kind}, but holds {found}{inside}. Give it the ending "
            "of what it is (.gz, .zst, .bz2, .xz or .parquet), or convert it to one of these."
        )
    return head


def _whole(span: Span, text_key: str, longest_bytes: int) -> Iterator[Document | Bad | Remark]:
    with Stream(span.path) as file:
        # What is on disk as it is has a size that everybody can see.
        expands = is_compressed(span.path)
        most = longest_bytes if expands else max(longest_bytes, _file_bytes(span.path))
        blocks = [_head(span, file)]
        size = len(blocks[0])
        while size <= most and (block := file.read(1 << 24)):
            blocks.append(block)
            size += len(block)
        if file.unchecked:
            yield Remark("unchecked", span.path)
    if size > most:
        yield Bad(span.path, 0, "text", TOO_LONG, f"expands to more than {most:,} bytes")
        return
    data = b"".join(blocks)
    if span.declared is None and _looks_like_json_lines(data):
        yield Remark("json_like", span.path)
    yield Document(span.path, data)


def _looks_like_json_lines(data: bytes) -> bool:
    first, _, rest = data[: 1 << 20].removeprefix(_UTF8_MARK).lstrip().partition(b"\n")
    if first[:1] != b"{" or rest.lstrip()[:1] not in (b"{", b""):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _file_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise DataError(f"source {path}: {error.strerror}.") from error


def _json_lines(span: Span, text_key: str, longest_bytes: int) -> Iterator[Document | Bad | Remark]:
    with Stream(span.path) as file:
        _check_lines(span, _head(span, file))
        if file.unchecked:
            yield Remark("unchecked", span.path)
    whole = is_compressed(span.path)
    with Stream(span.path) as file:
        at = 0
        if span.begin:
            # The line that a span begins in the middle of belongs to the span before.
            file.seek(span.begin - 1)
            at = span.begin - 1 + _rest_of_line(file)
        while whole or at < span.end:
            line = file.readline(longest_bytes + 1)
            if not line:
                return
            size = len(line)
            if size > longest_bytes:
                size += 0 if line.endswith(b"\n") else _rest_of_line(file)
                detail = f"it has {size:,} bytes, allowed are {longest_bytes:,}"
                yield Bad(span.path, at, "jsonl", TOO_LONG, detail)
            elif not line.isspace():
                yield _json_line(span.path, at, line, text_key)
            at += size


def _rest_of_line(file: Stream) -> int:
    """Goes behind the next newline; returns how many bytes that was."""
    size = 0
    while part := file.readline(1 << 20):
        size += len(part)
        if part.endswith(b"\n"):
            break
    return size


def _check_lines(span: Span, head: bytes) -> None:
    """One array or one object over many lines would give as many complaints as it has lines."""
    text = head.removeprefix(_UTF8_MARK).lstrip()
    first = text.split(b"\n", 1)[0].rstrip()
    found = None
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        found, remedy = "UTF-16", "Convert it to UTF-8"
    elif text[:1] == b"[" and text[1:].lstrip()[:1] in (b"{", b"[", b""):
        found, remedy = "one JSON array", f"Make lines of it: jq -c '.[]' {span.path} > lines.jsonl"
    elif first == b"{" and len(text) > 1:
        found, remedy = (
            "a JSON object over several lines",
            f"Make lines of it: jq -c . {span.path} > lines.jsonl",
        )
    if found:
        raise DataError(
            f"source {span.path}: JSON lines hold one object a line, but this holds {found}. {remedy}; "
            "or read it as it stands with --format text; or leave it out with --exclude."
        )


def _json_line(path: str, at: int, line: bytes, text_key: str) -> Document | Bad:
    try:
        text = (line.removeprefix(_UTF8_MARK) if at == 0 else line).decode()
        key = text_key.rpartition(".")[2]
        often = text.count(json.dumps(key)) > 1
        pairs = partial(_no_key_twice, key) if often else None
        record = json.loads(text, object_pairs_hook=pairs)
        if not isinstance(record, dict):
            raise _UnfitError(NOT_JSON, f"expected an object, found {type(record).__name__}")
        return Document(f"{path} at byte {at}", _utf8(_value(record, text_key), text_key))
    except _UnfitError as error:
        return Bad(path, at, "jsonl", error.reason, str(error))
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 ({error.reason} at byte {error.start} of the line)"
        return Bad(path, at, "jsonl", NOT_UNICODE, detail)
    except (ValueError, RecursionError) as error:
        return Bad(path, at, "jsonl", NOT_JSON, one_line(error))


def _no_key_twice(key: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that stands there twice Python keeps the last value without a word."""
    if sum(name == key for name, _ in pairs) > 1:
        raise _UnfitError(TWICE, f"key {key!r} stands there twice")
    return dict(pairs)


def _value(record: Any, text_key: str) -> Any:
    """What `text_key` names: a key as it stands, or a way through nested objects."""
    value = record
    for key in [text_key] if text_key in record else text_key.split("."):
        if not isinstance(value, dict) or key not in value:
            keys = ", ".join(sorted(map(str, record))[:20]) or "none"
            raise _UnfitError(NO_TEXT, f"no key {text_key!r}, only {keys}")
        value = value[key]
    return value


def _utf8(text: Any, name: str) -> bytes:
    if not isinstance(text, str):
        raise _UnfitError(NO_STRING, f"{name!r} is {type(text).__name__}, not a string")
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise _UnfitError(NOT_UNICODE, f"{name!r} is not Unicode ({error.reason})") from error


def _parquet(span: Span, text_key: str, longest_bytes: int) -> Iterator[Document | Bad]:
    file = parquet_file(span.path)
    column = _column(file, span.path, text_key)
    row = 0
    try:
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        row, end = sum(rows[: span.begin]), sum(rows[: span.end])
        groups = list(range(span.begin, span.end))
        for batch in file.iter_batches(PARQUET_ROWS, row_groups=groups, columns=[text_key]):
            for value in batch.column(0):
                yield _row(span.path, row, value, column, text_key, longest_bytes)
                row += 1
        # The footer has no checksum, but says this several times.
        if row != end or sum(rows) != file.metadata.num_rows:
            raise ValueError(f"the footer says {file.metadata.num_rows} rows, and others elsewhere")
    except Exception as error:  # pyarrow's own are of many kinds
        raise DataError(
            f"source {span.path} row {row}: {one_line(error)}. Fetch the file again, or leave it out."
        ) from error


def _column(file: "ParquetFile", path: str, text_key: str) -> list[str]:
    """The way from a column of the file to the text in it: nothing, or names of nested fields."""
    names = file.schema_arrow.names
    if names.count(text_key) == 1:
        return []
    head, *nested = text_key.split(".")
    if names.count(head) == 1 and nested:
        return nested
    found = "several columns" if text_key in names else "no column"
    raise DataError(
        f"source {path}: {found} {text_key!r}, only {', '.join(names)}. Name the text's column with "
        "--text-key."
    )


def _row(
    path: str, row: int, value: Any, nested: list[str], text_key: str, longest_bytes: int
) -> Document | Bad:
    try:
        found = value.as_py()
        for name in nested:
            if not isinstance(found, dict) or name not in found:
                raise _UnfitError(NO_TEXT, f"no {text_key!r} in it")
            found = found[name]
        data = _utf8(found, text_key)
    except _UnfitError as error:
        return Bad(path, row, "parquet", error.reason, str(error))
    except UnicodeDecodeError as error:
        return Bad(path, row, "parquet", NOT_UNICODE, f"not UTF-8 ({error.reason})")
    if len(data) > longest_bytes:
        detail = f"it has {len(data):,} bytes, allowed are {longest_bytes:,}"
        return Bad(path, row, "parquet", TOO_LONG, detail)
    return Document(f"{path} row {row}", data)
