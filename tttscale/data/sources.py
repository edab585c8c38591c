"""Which files a store is built from, always in the same order."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tttscale.data.formats import bare_suffix
from tttscale.errors import DataError

# Read as text these would give noise, and with the byte tokenizer without any complaint.
UNSUPPORTED = (".arrow", ".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z")
_HINT = "Name text, .jsonl or .parquet files (also .gz and .zst), folders or globs"


def list_files(
    sources: Sequence[str], suffixes: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> list[Path]:
    """The files behind `sources`, in reading order.

    Args:
        sources: Files, folders and globs (`**` goes down). Folders are walked in sorted order,
            hidden names and links to folders left out; globs are sorted.
        suffixes: Endings of the file names to take from folders, such as ".py"; None takes all.
        exclude: Names of folders and files to leave out, wherever they stand inside a folder.

    Raises:
        DataError: A source is missing or of an unsupported kind, or there is no file at all.
    """
    files = [file for source in sources for file in _expand(source, suffixes, exclude)]
    if not files:
        wanted = f" whose name ends in {', '.join(suffixes)}" if suffixes else ""
        raise DataError(
            f"SOURCES {' '.join(sources) or '(none)'}: found no file{wanted}. {_HINT}, "
            "or change --suffix."
        )
    for file in files:
        odd = bare_suffix(file)
        if odd in UNSUPPORTED:
            raise DataError(
                f"source {file}: {odd} files are not supported. Convert it to text or "
                ".jsonl, or leave it out with --suffix."
            )
    return files


def _expand(source: str, suffixes: Sequence[str] | None, exclude: Sequence[str]) -> Iterator[Path]:
    path = Path(source)
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from _walk(path, tuple(suffixes) if suffixes else ("",), set(exclude))
    elif glob.has_magic(source):
        for found in sorted(glob.glob(source, recursive=True)):  # noqa: PTH207 (Path.glob: relative only)
            if Path(found).is_file():
                yield Path(found)
    else:
        raise DataError(f"source {source}: no such file or folder. {_HINT}.")


def _walk(folder: Path, endings: tuple[str, ...], exclude: set[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in exclude)
        for name in sorted(set(names) - exclude):
            path = Path(parent, name)
            if not name.startswith(".") and name.endswith(endings) and path.is_file():
                yield path
