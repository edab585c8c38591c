"""Documents out of JSON lines."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from tttscale.data.builder.documents import (
    NO_TEXT,
    NOT_JSON,
    NOT_UNICODE,
    TOO_LONG,
    TWICE,
    BadDocument,
    Document,
    FileRange,
    Finding,
    Found,
    UnfitError,
    encoded,
)
from tttscale.data.builder.file_formats import is_compressed
from tttscale.data.builder.file_heads import UTF8_MARK, head_of
from tttscale.data.builder.streams import Stream
from tttscale.errors import DataError


def json_lines(file_range: FileRange, text_key: str, longest_bytes: int) -> Iterator[Found]:
    """Yield the documents of the lines that begin in `file_range`, and what is wrong with others."""
    with Stream(file_range.path) as file:
        _check_lines(file_range, head_of(file_range, file))
        if file.unchecked:
            yield Finding("unchecked", file_range.path)
    whole = is_compressed(file_range.path)
    with Stream(file_range.path) as file:
        at = 0
        if file_range.begin:
            # A line that began before this range belongs to the range before.
            file.seek(file_range.begin - 1)
            at = file_range.begin - 1 + _rest_of_line(file)
        while whole or at < file_range.end:
            line = file.readline(longest_bytes + 1)
            if not line:
                return
            size = len(line)
            if size > longest_bytes:
                size += 0 if line.endswith(b"\n") else _rest_of_line(file)
                detail = f"it has {size:,} bytes, more than the {longest_bytes:,} allowed"
                yield BadDocument(file_range.path, at, "jsonl", TOO_LONG, detail)
            elif not line.isspace():
                yield _json_line(file_range.path, at, line, text_key)
            at += size


def _rest_of_line(file: Stream) -> int:
    """Read up to the next newline; return how many bytes that was."""
    size = 0
    while data := file.readline(1 << 20):
        size += len(data)
        if data.endswith(b"\n"):
            break
    return size


def _check_lines(file_range: FileRange, head: bytes) -> None:
    """Refuse one array or one object over many lines, which would be one error for each line."""
    text = head.removeprefix(UTF8_MARK).lstrip()
    first = text.split(b"\n", 1)[0].rstrip()
    found = None
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        found, remedy = "UTF-16", "Convert it to UTF-8"
    elif text[:1] == b"[" and text[1:].lstrip()[:1] in (b"{", b"[", b""):
        found, remedy = (
            "one JSON array",
            f"Make lines of it: jq -c '.[]' {file_range.path} > lines.jsonl",
        )
    elif first == b"{" and len(text) > 1:
        found, remedy = (
            "a JSON object over several lines",
            f"Make lines of it: jq -c . {file_range.path} > lines.jsonl",
        )
    if found:
        raise DataError(
            f"source {file_range.path}: JSON lines hold one object a line, but this holds {found}. {remedy}; "
            "or read it as it is with --format text; or leave it out with --exclude."
        )


def _json_line(path: str, at: int, line: bytes, text_key: str) -> Document | BadDocument:
    try:
        text = (line.removeprefix(UTF8_MARK) if at == 0 else line).decode()
        key = text_key.rpartition(".")[2]
        often = text.count(json.dumps(key)) > 1
        pairs = partial(_no_key_twice, key) if often else None
        record = json.loads(text, object_pairs_hook=pairs)
        if not isinstance(record, dict):
            raise UnfitError(NOT_JSON, f"expected an object, found {type(record).__name__}")
        return Document(f"{path} at byte {at}", encoded(_value(record, text_key), text_key))
    except UnfitError as error:
        return BadDocument(path, at, "jsonl", error.reason, str(error))
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 ({error.reason} at byte {error.start} of the line)"
        return BadDocument(path, at, "jsonl", NOT_UNICODE, detail)
    except (ValueError, RecursionError) as error:
        return BadDocument(path, at, "jsonl", NOT_JSON, _not_json(error))


def _not_json(error: ValueError | RecursionError) -> str:
    """What is wrong with a line, without Python's own advice."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg.lower()} at character {error.colno}"
    return "it has a number of too many digits"


def _no_key_twice(key: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; of a key that occurs twice Python would silently keep the last value."""
    if sum(name == key for name, _ in pairs) > 1:
        raise UnfitError(TWICE, f"key {key!r} occurs twice")
    return dict(pairs)


def _value(record: Any, text_key: str) -> Any:
    """Look `text_key` up: as one key, or as a path through nested objects."""
    value = record
    for key in [text_key] if text_key in record else text_key.split("."):
        if not isinstance(value, dict) or key not in value:
            keys = ", ".join(sorted(map(str, record))[:20]) or "none"
            raise UnfitError(NO_TEXT, f"no key {text_key!r}, only {keys}")
        value = value[key]
    return value
