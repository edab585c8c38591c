"""A rank's trace as bytes, to be sent: JSON in columns, compressed."""

import json
import zlib
from typing import Any

from tttscale.observe.spans import RankTrace, Span, StepMark
from tttscale.reading import parse_json

_MOST_BYTES = 1 << 30


def to_bytes(rank: RankTrace) -> bytes:
    """Pack; floats stay what they are."""
    value: dict[str, Any] = {**vars(rank)}
    value["spans"], value["reads"] = _columns(rank.spans), _columns(rank.reads)
    value["steps"] = list(zip(*rank.steps, strict=True))
    value["memory"] = list(zip(*rank.memory, strict=True))
    return zlib.compress(json.dumps(value).encode(), 5)


def from_bytes(data: bytes) -> RankTrace:
    """Unpack what `to_bytes` of another rank has packed.

    Raises:
        ValueError: it is something else.
    """
    unpacking = zlib.decompressobj()
    try:
        value = parse_json(unpacking.decompress(data, _MOST_BYTES))
    except zlib.error as error:
        raise ValueError(f"not a rank's trace: {error}") from None
    value["spans"], value["reads"] = _spans(value["spans"]), _spans(value["reads"])
    value["steps"] = [StepMark(*row) for row in zip(*value["steps"], strict=True)]
    value["memory"] = list(zip(*value["memory"], strict=True))
    return RankTrace(**value)


def _columns(spans: list[Span]) -> list[list[Any]]:
    """Columns of spans; names are numbers of a list in front of their column."""
    columns: list[list[Any]] = []
    for name, column in zip(Span._fields, zip(*spans, strict=True), strict=False):
        if name in ("activity", "run", "part"):
            words = {word: number for number, word in enumerate(dict.fromkeys(column))}
            columns += [list(words), [words[word] for word in column]]
        else:
            columns.append(list(column))
    return columns


def _spans(columns: list[list[Any]]) -> list[Span]:
    plain, place = [], iter(columns)
    for name in Span._fields if columns else ():
        column = next(place)
        if name in ("activity", "run", "part"):
            column = [column[number] for number in next(place)]
        plain.append(column)
    return [Span(*row) for row in zip(*plain, strict=True)]
