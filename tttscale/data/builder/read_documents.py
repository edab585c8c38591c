"""Reading the documents of one range of a file: text, JSON lines, Parquet, plain or compressed."""

import json
from collections.abc import Iterator
from pathlib import Path

from tttscale.data.builder.documents import (
    LONGEST_BYTES,
    TOO_LONG,
    BadDocument,
    Document,
    FileRange,
    Finding,
    Found,
)
from tttscale.data.builder.file_formats import is_compressed
from tttscale.data.builder.file_heads import UTF8_MARK, head_of
from tttscale.data.builder.json_lines import json_lines
from tttscale.data.builder.parquet_rows import parquet_rows
from tttscale.data.builder.streams import Stream
from tttscale.errors import DataError


def read_documents(
    file_range: FileRange, text_key: str, longest_bytes: int = LONGEST_BYTES
) -> Iterator[Document]:
    """Yield every document of `file_range` that has any text.

    Args:
        file_range: the range of a file.
        text_key: key of the text in a JSON line, column of it in Parquet; the keys of a nested one
            are joined by dots.
        longest_bytes: most bytes of a document.

    Raises:
        DataError: a line or a row is bad, or the file cannot be read.
    """
    for found in read_all(file_range, text_key, longest_bytes):
        if isinstance(found, BadDocument):
            found.refuse()
        if isinstance(found, Document) and found.data:
            yield found


def read_all(
    file_range: FileRange, text_key: str, longest_bytes: int = LONGEST_BYTES
) -> Iterator[Found]:
    """Yield every document of `file_range`, empty ones too, bad documents and findings.

    Raises:
        DataError: the file cannot be read, or is not of the declared kind.
    """
    readers = {"text": _text_file, "jsonl": json_lines, "parquet": parquet_rows}
    yield from readers[file_range.kind](file_range, text_key, longest_bytes)


def _text_file(file_range: FileRange, text_key: str, longest_bytes: int) -> Iterator[Found]:
    with Stream(file_range.path) as file:
        # A file that is not compressed has its whole size on disk, so it may be as large as it is.
        expands = is_compressed(file_range.path)
        most = longest_bytes if expands else max(longest_bytes, _file_bytes(file_range.path))
        buffers = [head_of(file_range, file)]
        size = len(buffers[0])
        while size <= most and (buffer := file.read(1 << 24)):
            buffers.append(buffer)
            size += len(buffer)
        if file.unchecked:
            yield Finding("unchecked", file_range.path)
    if size > most:
        yield BadDocument(
            file_range.path, 0, "text", TOO_LONG, f"expands to more than {most:,} bytes"
        )
        return
    data = b"".join(buffers)
    if file_range.declared is None and _looks_like_json_lines(data):
        yield Finding("json_like", file_range.path)
    yield Document(file_range.path, data)


def _looks_like_json_lines(data: bytes) -> bool:
    first, _, rest = data[: 1 << 20].removeprefix(UTF8_MARK).lstrip().partition(b"\n")
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
