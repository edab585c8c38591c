"""The documents of a file of ids, as blocks of ids with the places where documents end."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tttscale.data.ids.columns import BLOCK
from tttscale.data.ids.id_file import IdFile

DOCUMENTS = 1 << 16
"""Documents whose ends are read at once."""


class Separators(NamedTuple):
    """Ids that begin and end documents; None where there is none."""

    bos: int | None
    eos: int | None


class Segment(NamedTuple):
    """Consecutive ids."""

    ids: np.ndarray
    """In the file's dtype, [n]."""
    ends: np.ndarray
    """Offsets in [0, n] at which documents end, ascending; an empty one ends where the one before does."""


def segments(file: IdFile, begin: int, end: int, separators: Separators) -> Iterator[Segment]:
    """Yield some documents of a file block by block.

    Args:
        file: the file.
        begin: with an index, the first document; without, the first id at which one may begin.
        end: the end of that range, exclusive. A document belongs to the range in which it begins.
        separators: what separates documents where there is no index.

    Raises:
        DataError: the file cannot be read, or is shorter than it was.
    """
    if file.ends is None:
        yield from _separated(file, begin, end, separators)
    else:
        yield from _indexed(file, begin, end)


def _indexed(file: IdFile, begin: int, end: int) -> Iterator[Segment]:
    assert file.ends is not None
    at = int(file.ends.read(begin - 1, begin)[0]) if begin else 0
    for first in range(begin, end, DOCUMENTS):
        listed = file.ends.read(first, min(first + DOCUMENTS, end))
        last, done = int(listed[-1]), 0
        while True:
            stop = min(at + BLOCK, last)
            inside = int(np.searchsorted(listed, stop, "right"))
            yield Segment(file.ids.read(at, stop), listed[done:inside] - at)
            at, done = stop, inside
            if at == last:
                break


def _separated(file: IdFile, begin: int, end: int, separators: Separators) -> Iterator[Segment]:
    count, at, is_open = file.ids.count, begin, False
    before = int(file.ids.read(begin - 1, begin)[0]) if begin else None
    while at < count and (is_open or at < end):
        block = file.ids.read(at, min(at + BLOCK, count))
        starts = _starts(block, before, separators)
        ours = int(np.searchsorted(starts, end - at))
        begins_beyond = ours < len(starts)
        if is_open or ours:
            low = 0 if is_open else int(starts[0])
            stop = int(starts[ours]) if begins_beyond else len(block)
            ends = starts[0 if is_open else 1 : ours + 1]
            if at + stop == count:
                ends = np.append(ends, stop)
            yield Segment(block[low:stop], ends - low)
            if begins_beyond:
                return
            is_open = True
        before, at = int(block[-1]), at + len(block)


def _starts(block: np.ndarray, before: int | None, separators: Separators) -> np.ndarray:
    """Offsets at which documents begin, ascending.

    Args:
        block: ids [n].
        before: the id before them; None at the begin of a file.
        separators: what separates documents.
    """
    found = np.zeros(len(block), bool)
    if separators.bos is not None:
        found |= block == separators.bos
    if separators.eos is not None:
        found[1:] |= block[:-1] == separators.eos
    found[0] |= before is None or (separators.eos is not None and before == separators.eos)
    return np.flatnonzero(found)
