"""Nanosets: `.ds` files of datatrove and nanotron, with `.ds.index` and `.ds.metadata` beside them.

The `.ds` holds ids of two or four bytes and no header. The index lists the end of each document, in tokens
(uint64). The metadata are lines of text: the tokenizer's name, after a `|` the bytes of an id; the number of
tokens; the same number for people.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tttscale.data.ids.columns import BLOCK, Column, damaged, file_bytes, read_up_to
from tttscale.data.ids.id_file import IdFile, ListedEnds
from tttscale.errors import DataError

_DTYPES = {2: "<u2", 4: "<u4"}
_METADATA_BYTES = 1 << 16
INDEX, METADATA, MASK = ".index", ".metadata", ".loss"
"""Endings of the files beside a `.ds`, after its own name."""


class _Metadata(NamedTuple):
    tokenizer: str
    item_bytes: int | None
    tokens: int


def open_nanoset(path: Path, vocab_size: int, dtype: str | None = None) -> IdFile:
    """Check a `.ds` file against the files beside it.

    Args:
        path: the `.ds`.
        vocab_size: of the tokenizer; where the metadata do not say it, ids have two bytes if that many are
            enough, as the toolkits choose it.
        dtype: dtype of the ids; needed where neither an index nor metadata are there.

    Raises:
        DataError: a file is missing or damaged, or they contradict each other.
    """
    index, metadata = beside(path, INDEX), beside(path, METADATA)
    size = file_bytes(path)
    listed = _index(index) if index.is_file() else None
    described = _metadata(metadata) if metadata.is_file() else None
    if dtype is None and listed is None and described is None:
        raise DataError(
            f"source {path}: neither {path.name}{INDEX} nor {path.name}{METADATA} is beside it, so the size "
            "of an id is unknown. Put them there, or give --dtype uint16 or uint32."
        )
    item_bytes = np.dtype(dtype).itemsize if dtype else 2 if vocab_size <= 1 << 16 else 4
    if described is not None and described.item_bytes:
        item_bytes = described.item_bytes
    said = {} if listed is None else {"its index": _last(listed)}
    said |= {} if described is None else {"its metadata": described.tokens}
    wrong = [
        f"{name} {tokens:,} tokens" for name, tokens in said.items() if tokens * item_bytes != size
    ]
    if wrong or size % item_bytes:
        of = f", {' and '.join(wrong)}" if wrong else ""
        raise damaged(path, f"{size:,} bytes, but {item_bytes} bytes an id{of}")
    ids = Column(path, 0, _DTYPES[item_bytes], size // item_bytes)
    return IdFile(
        "nanoset",
        ids,
        None if listed is None else ListedEnds(listed),
        tuple(p for p in (index, metadata) if p.is_file()),
        "" if described is None else described.tokenizer,
        beside(path, MASK).is_file(),
    )


def beside(path: Path, ending: str) -> Path:
    """The file beside a `.ds` with this ending."""
    return path.with_name(path.name + ending)


def _index(index: Path) -> Column:
    """The ends of documents.

    Raises:
        DataError: they are not ascending.
    """
    size = file_bytes(index)
    if size % 8:
        raise damaged(index, f"{size:,} bytes, which are no whole number of 8-byte ends")
    column, before = Column(index, 0, "<u8", size // 8), np.uint64(0)
    for number, block in enumerate(column.blocks()):
        if len(bad := np.flatnonzero(block < np.concatenate([[before], block[:-1]]))):
            where = number * BLOCK + int(bad[0])
            raise damaged(index, f"document {where:,} ends before the one before it")
        before = block[-1]
    if int(before) >= 1 << 62:
        raise damaged(index, f"its last document ends after {int(before):,} tokens")
    return column


def _last(column: Column) -> int:
    return int(column.read(column.count - 1, column.count)[0]) if column.count else 0


def _metadata(path: Path) -> _Metadata:
    try:
        lines = read_up_to(path, 0, _METADATA_BYTES).decode().splitlines()
    except UnicodeDecodeError:
        lines = []
    name, _, item = (lines[0] if lines else "").rpartition("|")
    if not name:
        name, item = item, ""
    if (
        len(lines) < 2
        or not re.fullmatch(r"[0-9]{1,18}", lines[1])
        or not re.fullmatch("[24]?", item)
    ):
        raise damaged(
            path, "it does not say NAME|BYTES and the number of tokens in its first two lines"
        )
    return _Metadata(name[:200], int(item) if item else None, int(lines[1]))
