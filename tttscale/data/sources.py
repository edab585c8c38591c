"""Documents out of text files, folders and JSON lines, always in the same order."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tttscale.errors import DataError

# Read as text these would give noise, and with the byte tokenizer without any complaint.
UNSUPPORTED = (".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz", ".zip", ".tar")


class Document(NamedTuple):
    """One text.

    Attributes:
        origin: Where it comes from: `file`, or `file:line` in JSON lines.
        data: Its bytes; UTF-8 unless a text file holds something else.
    """

    origin: str
    data: bytes


def iterate_documents(
    sources: Sequence[str],
    *,
    text_key: str = "text",
    suffixes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> Iterator[Document]:
    """Yields every document with any text, in the order of `sources`.

    Args:
        sources: Text files, `.jsonl` files and folders; folders are walked in sorted order,
            hidden names and links to folders left out.
        text_key: Key of the text in a JSON line.
        suffixes: Endings of the file names to take from folders, such as ".py"; None takes all.
        exclude: Names of folders and files to leave out, wherever they stand inside a folder.

    Raises:
        DataError: A source is missing or of an unsupported kind, or a JSON line is bad.
    """
    for path in list_files(sources, suffixes, exclude):
        documents = _json_lines(path, text_key) if path.suffix == ".jsonl" else _whole(path)
        yield from (document for document in documents if document.data)


def list_files(
    sources: Sequence[str], suffixes: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> list[Path]:
    """The files behind `sources`, in reading order.

    Raises:
        DataError: A source is missing or of an unsupported kind, or there is no file at all.
    """
    files = [file for source in sources for file in _expand(Path(source), suffixes, exclude)]
    if not files:
        wanted = f" whose name ends in {', '.join(suffixes)}" if suffixes else ""
        raise DataError(
            f"SOURCES {' '.join(sources) or '(none)'}: found no file{wanted}. "
            "Name text files, .jsonl files or folders, or change --suffix."
        )
    for file in files:
        if file.suffix in UNSUPPORTED:
            raise DataError(
                f"source {file}: {file.suffix} files are not supported. Convert it to text or "
                ".jsonl, or leave it out with --suffix."
            )
    return files


def _expand(source: Path, suffixes: Sequence[str] | None, exclude: Sequence[str]) -> Iterator[Path]:
    if source.is_file():
        yield source
    elif source.is_dir():
        yield from _walk(source, tuple(suffixes) if suffixes else ("",), set(exclude))
    else:
        raise DataError(
            f"source {source}: no such file or folder. Name text files, .jsonl files or folders."
        )


def _walk(folder: Path, endings: tuple[str, ...], exclude: set[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in exclude)
        for name in sorted(set(names) - exclude):
            path = Path(parent, name)
            if not name.startswith(".") and name.endswith(endings) and path.is_file():
                yield path


def _whole(path: Path) -> Iterator[Document]:
    yield Document(str(path), path.read_bytes())


def _json_lines(path: Path, text_key: str) -> Iterator[Document]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                origin = f"{path}:{number}"
                yield Document(origin, _text_of(line, text_key, origin))


def _text_of(line: bytes, text_key: str, origin: str) -> bytes:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError(f"expected an object, found {type(record).__name__}")
        if text_key not in record:
            raise ValueError(f"no key {text_key!r}, only {', '.join(sorted(record)) or 'none'}")
        if not isinstance(record[text_key], str):
            raise ValueError(f"{text_key!r} is {type(record[text_key]).__name__}, not a string")
        return record[text_key].encode()  # UnicodeEncodeError (a ValueError): a lone surrogate
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{origin}: bad JSON line: {error}. Mend the line, or name the text's key "
            "with --text-key."
        ) from error
