"""Documents out of Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttscale.data.builder.documents import (
    NO_TEXT,
    NOT_UNICODE,
    TOO_LONG,
    BadDocument,
    Document,
    FileRange,
    UnfitError,
    encoded,
)
from tttscale.errors import DataError
from tttscale.packages import needed, one_line

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_ROWS = 256
"""Rows decoded at a time: texts of a megabyte each still fit."""


def parquet_file(path: str | Path) -> "ParquetFile":
    """Open a Parquet file.

    Raises:
        DataError: it is not Parquet, or pyarrow is not installed.
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


def parquet_rows(
    file_range: FileRange, text_key: str, longest_bytes: int
) -> Iterator[Document | BadDocument]:
    """Yield the documents of the row groups of `file_range`, and what is wrong with other rows."""
    file = parquet_file(file_range.path)
    column = _column(file, file_range.path, text_key)
    row = 0
    try:
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        row, end = sum(rows[: file_range.begin]), sum(rows[: file_range.end])
        groups = list(range(file_range.begin, file_range.end))
        for batch in file.iter_batches(_ROWS, row_groups=groups, columns=[text_key]):
            for value in batch.column(0):
                yield _row(file_range.path, row, value, column, text_key, longest_bytes)
                row += 1
        # The footer has no checksum, but holds this number several times.
        if row != end or sum(rows) != file.metadata.num_rows:
            raise ValueError(
                f"the footer says {file.metadata.num_rows} rows, and other numbers elsewhere"
            )
    except Exception as error:  # pyarrow's own are of many kinds
        raise DataError(
            f"source {file_range.path} row {row}: {one_line(error)}. Fetch the file again, or leave it out."
        ) from error


def _column(file: "ParquetFile", path: str, text_key: str) -> list[str]:
    """The path from a column of the file to the text in it: names of nested fields, or none."""
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
) -> Document | BadDocument:
    try:
        found = value.as_py()
        for name in nested:
            if not isinstance(found, dict) or name not in found:
                raise UnfitError(NO_TEXT, f"no {text_key!r} in it")
            found = found[name]
        data = encoded(found, text_key)
    except UnfitError as error:
        return BadDocument(path, row, "parquet", error.reason, str(error))
    except UnicodeDecodeError as error:
        return BadDocument(path, row, "parquet", NOT_UNICODE, f"not UTF-8 ({error.reason})")
    if len(data) > longest_bytes:
        detail = f"it has {len(data):,} bytes, more than the {longest_bytes:,} allowed"
        return BadDocument(path, row, "parquet", TOO_LONG, detail)
    return Document(f"{path} row {row}", data)
