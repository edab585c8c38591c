"""Pairs of `.bin` and `.idx`, as Megatron-LM and the toolkits after it write them.

The index: 9 bytes of magic; the version, 1; a code for the dtype; the number of sequences; in Megatron's
the number of entries in the list of documents. Then the length of each sequence (int32), the byte at which
it begins (int64), and in Megatron's the sequence at which each document begins and, last, the number of
sequences (int64), and for data that is not text alone one mode per sequence (int8). In fairseq's index each
sequence is a document. All numbers are little-endian.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tttscale.data.ids.columns import BLOCK, Column, damaged, file_bytes, read_up_to
from tttscale.data.ids.id_file import IdFile
from tttscale.errors import DataError

_MAGIC, _OLD_MAGIC = b"MMIDIDX\0\0", b"TNTIDX\0\0"
_FAIRSEQ_HEADER, _HEADER = "<9sQBQ", "<9sQBQQ"
_DTYPES = {1: "|u1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""By their codes. Codes 2, 6 and 7 are int8 and floats, which are no ids."""
_LENGTH, _POINTER, _DOCUMENT, _MODE = "<i4", "<i8", "<i8", "|i1"
_ENTRY_BYTES = 12


def open_megatron(index: Path) -> IdFile:
    """Check an index against its `.bin`; all of the index is read, block by block.

    Args:
        index: the `.idx`.

    Raises:
        DataError: one of the two is missing, damaged, or not of such a pair.
    """
    path = index.with_suffix(".bin")
    head = read_up_to(index, 0, struct.calcsize(_HEADER))
    _check_head(index, head)
    _, version, code, sequences = struct.unpack_from(_FAIRSEQ_HEADER, head)
    if version != 1:
        raise damaged(index, f"version {version} of the index, and 1 is known")
    if code not in _DTYPES:
        raise damaged(index, f"code {code} for the dtype, which is none of an integer for ids")
    lengths, pointers, documents = _columns(index, head, sequences)
    size = file_bytes(path)
    item_bytes = np.dtype(_DTYPES[code]).itemsize
    _check_pointers(index, lengths, pointers, item_bytes, size)
    ids = Column(path, 0, _DTYPES[code], size // item_bytes)
    if documents is not None:
        _check_documents(index, documents, sequences)
    ends = SequenceEnds(pointers, item_bytes, ids.count, documents)
    return IdFile("Megatron index" if documents else "fairseq index", ids, ends, (index,))


@dataclass(frozen=True)
class SequenceEnds:
    """Where documents end, by the sequences that they consist of."""

    pointers: Column
    """Bytes at which sequences begin."""
    item_bytes: int
    """Bytes of an id."""
    tokens: int
    """Ids in all."""
    documents: Column | None
    """First sequence of each document, and last the number of sequences; None: each sequence is one."""

    @property
    def count(self) -> int:
        """Documents."""
        return self.pointers.count if self.documents is None else self.documents.count - 1

    def read(self, begin: int, end: int) -> np.ndarray:
        """Number of ids before the end of each document [begin, end), ascending, int64."""
        if self.documents is None:
            sequences = np.arange(begin + 1, end + 1)
        else:
            sequences = self.documents.read(begin + 1, end + 1)
        found = np.full(len(sequences), self.tokens, np.int64)
        inner = int(np.searchsorted(sequences, self.pointers.count))
        found[:inner] = self.pointers.values_at(sequences[:inner]) // self.item_bytes
        return found


def _check_head(index: Path, head: bytes) -> None:
    if head.startswith(_OLD_MAGIC):
        raise DataError(
            f"source {index}: an index of the kind before memory maps (TNTIDX). Convert the pair with the "
            "toolkit that wrote it (its dataset implementation `mmap`)."
        )
    if not head.startswith(_MAGIC) or len(head) < struct.calcsize(_FAIRSEQ_HEADER):
        raise damaged(index, "it does not begin as an index of Megatron or fairseq does")


def _columns(index: Path, head: bytes, sequences: int) -> tuple[Column, Column, Column | None]:
    """The lengths, the pointers and the documents: which of the two headers it has, its size says."""
    size = file_bytes(index)
    short, long = struct.calcsize(_FAIRSEQ_HEADER), struct.calcsize(_HEADER)
    if size == short + _ENTRY_BYTES * sequences:
        lengths, pointers = _pairs(index, short, sequences)
        return lengths, pointers, None
    entries = struct.unpack(_HEADER, head)[-1] if len(head) == long else 0
    plain = long + _ENTRY_BYTES * sequences + 8 * entries
    if size not in (plain, plain + sequences) or not entries:
        raise damaged(
            index,
            f"{size:,} bytes, which is none of the sizes that {sequences:,} sequences and {entries:,} "
            "entries for documents take",
        )
    lengths, pointers = _pairs(index, long, sequences)
    documents = Column(index, pointers.end_bytes, _DOCUMENT, entries)
    if size != plain:
        modes = Column(index, documents.end_bytes, _MODE, sequences)
        if any(block.any() for block in modes.blocks()):
            raise DataError(f"source {index}: it has sequences that are not text. Leave it out.")
    return lengths, pointers, documents


def _pairs(index: Path, offset_bytes: int, sequences: int) -> tuple[Column, Column]:
    lengths = Column(index, offset_bytes, _LENGTH, sequences)
    return lengths, Column(index, lengths.end_bytes, _POINTER, sequences)


def _check_pointers(
    index: Path, lengths: Column, pointers: Column, item_bytes: int, size: int
) -> None:
    """Refuse sequences that do not follow each other from the first to the last byte of the .bin."""
    at = first = 0
    for length, pointer in zip(lengths.blocks(), pointers.blocks(), strict=True):
        sizes = length.astype(np.int64) * item_bytes
        if len(bad := np.flatnonzero(length < 0)):
            raise damaged(index, f"sequence {first + bad[0]:,} has the length {length[bad[0]]}")
        begins = at + np.cumsum(sizes) - sizes
        if len(bad := np.flatnonzero(pointer != begins)):
            found, wanted = int(pointer[bad[0]]), int(begins[bad[0]])
            raise damaged(
                index,
                f"sequence {first + bad[0]:,} begins at byte {found:,}, but by the lengths before it at "
                f"byte {wanted:,}",
            )
        at, first = at + int(sizes.sum()), first + len(length)
        if at > size:
            break
    if at != size:
        raise damaged(
            index,
            f"its sequences take {at:,} bytes{' or more' * (at > size)}, but the .bin beside it has {size:,}",
        )


def _check_documents(index: Path, documents: Column, sequences: int) -> None:
    before = 0
    for number, block in enumerate(documents.blocks()):
        below = block < np.concatenate([[before], block[:-1]])
        if below.any() or (number == 0 and block[0]):
            where = number * BLOCK + int(np.argmax(below))
            raise damaged(
                index, f"entry {where:,} of its documents is below the one before, or not 0"
            )
        before = int(block[-1])
    if before != sequences:
        raise damaged(
            index,
            f"its documents end with sequence {before:,}, and there are {sequences:,} sequences",
        )
