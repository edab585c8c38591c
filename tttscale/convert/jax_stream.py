"""The file that ttt-lm-jax saves a model to: a stream of msgpack records, one for each array of its tree.

A record is a pair: the path in the tree as an array of texts, and the bytes that flax makes of the array (an
extension of type 1 that holds shape, dtype and values; above 1 GiB a map of several of them). The file has no
head and no end. Only what is between the values is read to find them; of a train state, two thirds are
moments of the optimizer, which are never touched.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch import Tensor

from tttscale.convert.msgpack_heads import Cursor
from tttscale.convert.source import DTYPE_NAMES
from tttscale.errors import CheckpointError
from tttscale.reading import reason
from tttscale.tensors import shown

_MOST_RECORDS, _DEEPEST, _NAME_BYTES, _MOST_DIMS, _MOST_CHUNKS = 1_000_000, 32, 256, 8, 4096
_ARRAY, _SCALAR = 1, 3
"""Types of flax's extensions."""
_CHUNKED = "__msgpack_chunked_array__"
_INTEGERS = {"int32": torch.int32, "int64": torch.int64, "uint32": torch.uint32}


class Record(NamedTuple):
    """One array of a stream, still on disk."""

    path: Path
    number: int
    """From 1."""
    key: tuple[str, ...]
    """Its path in the tree; names may contain slashes."""
    begin: int
    end: int
    """Its value is in bytes [begin, end) of the file."""

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"record {self.number} ({shown('/'.join(self.key))})"


class Leaf(NamedTuple):
    """Where the values of an array are."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]
    """Beginning and number of bytes of each part, in order."""


def records(path: Path, file: IO[bytes]) -> Iterator[Record]:
    """Yield what a stream holds; values are not read.

    Args:
        path: of the file, for errors.
        file: opened to be read.

    Raises:
        CheckpointError: a record is damaged or cut; the message names it.
    """
    cursor = Cursor(file, 0, file.seek(0, 2))
    number = 0
    while cursor.position < cursor.end:
        number += 1
        where = f"record {number}"
        try:
            if number > _MOST_RECORDS:
                raise ValueError(f"there are more than {_MOST_RECORDS:,}")
            if cursor.expect("array") != 2:
                raise ValueError("it is no pair of a path and a value")
            key = _key(cursor)
            where = f"record {number} ({shown('/'.join(key))})"
            value = cursor.region(cursor.expect("bin"))
        except ValueError as error:
            raise _broken(path, where, error) from None
        yield Record(path, number, key, value.position, value.end)
    if not number:
        raise CheckpointError(f"{path} is empty. Fetch the file again")


def leaf(record: Record, file: IO[bytes]) -> Leaf:
    """Find shape, dtype and place of an array.

    Raises:
        CheckpointError: it is none of floats, or its sizes contradict each other.
    """
    try:
        cursor = Cursor(file, record.begin, record.end)
        head = cursor.head()
        if head.kind == "map":
            found = _chunked(cursor, head.size)
        elif (head.kind, head.code) == ("ext", _ARRAY):
            found = _array(cursor.region(head.size))
        else:
            raise ValueError(f"it is no array, but {head.kind} {head.code or ''}".rstrip())
        cursor.finish()
        return found
    except ValueError as error:
        raise _broken(record.path, record.label, error) from None


def number(record: Record, file: IO[bytes]) -> int:
    """Read a whole number, such as the step of a train state.

    Raises:
        CheckpointError: it is none.
    """
    try:
        cursor = Cursor(file, record.begin, record.end)
        head = cursor.head()
        if head.kind == "int":
            cursor.finish()
            return head.size
        if head.kind != "ext" or head.code not in (_ARRAY, _SCALAR):
            raise ValueError("it is no number")
        found = _array(cursor.region(head.size), _INTEGERS)
        cursor.finish()
        if math.prod(found.shape) != 1:
            raise ValueError(f"it is an array of the shape {list(found.shape)}, and no number")
        return int(read_leaf(record, found, file))
    except ValueError as error:
        raise _broken(record.path, record.label, error) from None


def read_leaf(record: Record, found: Leaf, file: IO[bytes]) -> Tensor:
    """Read the values of an array.

    Raises:
        CheckpointError: they cannot be read.
    """
    data = bytearray(sum(size for _, size in found.pieces))
    view, done = memoryview(data), 0
    try:
        for begin, size in found.pieces:
            file.seek(begin)
            if file.readinto(view[done : done + size]) != size:  # type: ignore[attr-defined]
                raise ValueError("the file became shorter while it was read")
            done += size
    except (OSError, ValueError) as error:
        raise _broken(record.path, record.label, error) from None
    if not data:
        return torch.empty(found.shape, dtype=found.dtype)
    return torch.frombuffer(data, dtype=found.dtype).view(found.shape)


def _key(cursor: Cursor) -> tuple[str, ...]:
    depth = cursor.expect("array")
    if not 1 <= depth <= _DEEPEST:
        raise ValueError(f"its path has {depth:,} names")
    return tuple(cursor.text(_NAME_BYTES) for _ in range(depth))


def _array(cursor: Cursor, dtypes: dict[str, torch.dtype] = DTYPE_NAMES) -> Leaf:
    """Read what is before the values of an array: shape, dtype, and how many bytes."""
    if cursor.expect("array") != 3:
        raise ValueError("its array is not shape, dtype and values")
    dims = cursor.expect("array")
    if dims > _MOST_DIMS:
        raise ValueError(f"its array has {dims:,} dimensions")
    shape = tuple(cursor.expect("int") for _ in range(dims))
    name = cursor.text(_NAME_BYTES)
    values = cursor.region(cursor.expect("bin"))
    cursor.finish()
    if name not in dtypes:
        raise ValueError(f"its values are {name!r:.40}; expected {', '.join(dtypes)}")
    size = values.end - values.position
    _check_size(shape, dtypes[name], size)
    return Leaf(dtypes[name], shape, ((values.position, size),))


def _chunked(cursor: Cursor, entries: int) -> Leaf:
    """Read an array that is in parts: a map of the mark, the shape and the parts, in any order."""
    shape: list[int] | None = None
    parts: list[Leaf] = []
    if entries != 3:
        raise ValueError(f"it is no array, but a map of {entries:,}")
    for _ in range(entries):
        name = cursor.text(_NAME_BYTES)
        if name == _CHUNKED and cursor.expect("bool"):
            continue
        if name not in ("shape", "chunks"):
            raise ValueError(f"it is no array, but a map with {name!r:.60}")
        count = cursor.expect("map")
        if count > _MOST_CHUNKS:
            raise ValueError(f"its {name} has {count:,} entries")
        if name == "shape":
            shape = []
        for i in range(count):
            if cursor.text(_NAME_BYTES) != str(i):
                raise ValueError(f"its {name} is not in order")
            if name == "shape":
                shape = [*(shape or []), cursor.expect("int")]
                continue
            head = cursor.head()
            if (head.kind, head.code) != ("ext", _ARRAY):
                raise ValueError("a part of it is no array")
            parts.append(_array(cursor.region(head.size)))
    if shape is None or not parts or len({part.dtype for part in parts}) > 1:
        raise ValueError("its parts do not make up an array")
    pieces = tuple(piece for part in parts for piece in part.pieces)
    _check_size(tuple(shape), parts[0].dtype, sum(size for _, size in pieces))
    return Leaf(parts[0].dtype, tuple(shape), pieces)


def _check_size(shape: tuple[int, ...], dtype: torch.dtype, size: int) -> None:
    if any(extent < 0 for extent in shape) or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"its shape is {list(shape)!s:.80}, but its values have {size:,} bytes")


def _broken(path: Path, where: str, error: ValueError | OSError) -> CheckpointError:
    return CheckpointError(f"{path}: {where} is damaged: {reason(error)}. Fetch the file again")
