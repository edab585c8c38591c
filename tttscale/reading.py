"""Reading files that other programs may have written, with bounds on size, depth and digits.

Every JSON file is read here. A read never waits for a pipe, never takes more memory than a few times the
largest size allowed, and raises only OSError and ValueError (`read_json`: one error of the caller's kind).
Values that JSON does not know, such as NaN, are refused, and so are keys that occur twice, since two readers
would take different ones.
"""

import errno
import json
import math
import re
from pathlib import Path
from typing import Any

from tttscale.errors import TTTScaleError
from tttscale.files import open_ordinary

JSON_BYTES = 64 << 20
"""Largest JSON file; a manifest takes about 160 bytes for each file that it lists."""
_DEEPEST, _MOST_CONTAINERS, _MOST_DIGITS = 64, 2_000_000, 20
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        OSError: it cannot be read, is not an ordinary file, or is larger than the limit.
    """
    with open_ordinary(path) as file:
        data = file.read(limit_bytes + 1)  # not by its size: a file may grow
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"more than the {limit_bytes:,} bytes it may have", str(path))
    return data


def parse_json(data: bytes, *, non_finite: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        data: UTF-8, with or without a byte order mark.
        non_finite: take NaN and Infinity, which JSON does not know, for numbers.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has too long numbers; in a few words.
    """
    if not data.strip():
        raise ValueError("it is empty")
    _check_nesting(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_twins,
            parse_int=_int,
            parse_float=float if non_finite else _finite,
            parse_constant=float if non_finite else _no_constant,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if _SURROGATE.search(text):
        _check_text(value)
    return value


def read_json(
    path: Path,
    *,
    error: type[TTTScaleError],
    advice: str,
    limit_bytes: int = JSON_BYTES,
    non_finite: bool = False,
) -> Any:
    """The value of a JSON file.

    Args:
        path: the file.
        error: what to raise.
        advice: the next step for the user.
        limit_bytes: the largest size.
        non_finite: as for `parse_json`.

    Raises:
        TTTScaleError: of the kind `error`, with the file's name, whatever is wrong with it.
    """
    try:
        return parse_json(read_bytes(path, limit_bytes), non_finite=non_finite)
    except (OSError, ValueError) as problem:
        raise error(f"{path}: {reason(problem)}. {advice}") from None


def reason(error: Exception) -> str:
    """Say what is wrong, without the file's name."""
    return str(getattr(error, "strerror", None) or error)


def _check_nesting(data: bytes) -> None:
    """Check before any value is built: containers take many times the memory of their text."""
    depth = containers = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", data)):
        if bracket[0] in b"[{":
            depth, containers = depth + 1, containers + 1
            if depth > _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} deep")
            if containers > _MOST_CONTAINERS:
                raise ValueError(f"it holds more than {_MOST_CONTAINERS:,} lists and objects")
        else:
            depth -= 1


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has the key {twin!r:.60} twice")
    return found


def _int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {digits:.40}, which is not finite")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"it has the number {name}, which is not finite")


def _check_text(value: Any) -> None:
    """Refuse half of a surrogate pair: it is not a character, and could be neither shown nor written."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair, which is not text") from None
