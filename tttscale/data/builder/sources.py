"""The files that a store is built from, always in the same order."""

import glob
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from tttscale.data.builder.file_formats import FileFormats
from tttscale.errors import DataError

_log = logging.getLogger(__name__)
ZARR = {"zarr.json", ".zarray", ".zgroup"}
"""A folder that holds one of these is an array or a group of Zarr: chunks of numbers."""
_HINT = "Name text, .jsonl or .parquet files (also .gz, .zst, .bz2 and .xz), folders or globs"


def list_files(
    sources: Sequence[str],
    suffixes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    formats: FileFormats | None = None,
    own: Path | None = None,
) -> list[Path]:
    """List the files that `sources` name, in reading order.

    Args:
        sources: files, folders and globs (`**` goes down). Folders are walked in sorted order,
            hidden names left out; links to folders and Zarr stores are left out with a warning;
            globs are sorted.
        suffixes: endings of the file names to take from folders, such as ".py"; None takes all.
        exclude: names of folders and files to leave out, wherever they are inside a folder.
        formats: how files are read; None leaves it to their names.
        own: a folder whose files are not sources: what an earlier run of the same build left.

    Raises:
        DataError: a source is missing, unreadable or of an unsupported kind, how to read it is not
            known, or there is no file.
    """
    files = find_files(sources, suffixes, exclude, own)
    (formats or FileFormats()).check(files)
    return files


def find_files(
    sources: Sequence[str],
    suffixes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    own: Path | None = None,
    hint: str = _HINT,
) -> list[Path]:
    """List the files that `sources` name, of whatever kind; as `list_files`, without a look at their kinds.

    Args:
        sources: as for `list_files`.
        suffixes: as for `list_files`.
        exclude: as for `list_files`.
        own: as for `list_files`.
        hint: what to name where there is no file, as an error says it.

    Raises:
        DataError: a source is missing or unreadable, or there is no file.
    """
    try:
        files = [file for source in sources for file in _expand(source, suffixes, exclude, hint)]
    except OSError as error:
        link = "a link, " if Path(error.filename).is_symlink() else ""
        raise DataError(
            f"source {error.filename}: {link}{error.strerror}. Correct it, or leave it out with "
            f"--exclude {Path(error.filename).name}."
        ) from error
    if own is not None:
        root = own.resolve()
        files = [f for f in files if root.name not in f.parts or root not in f.resolve().parents]
    if not files:
        wanted = f" whose name ends in {', '.join(suffixes)}" if suffixes else ""
        raise DataError(
            f"SOURCES {' '.join(sources) or '(none)'}: found no file{wanted}. {hint}"
            f"{', or change --suffix' if suffixes else ''}."
        )
    return files


def _expand(
    source: str, suffixes: Sequence[str] | None, exclude: Sequence[str], hint: str
) -> Iterator[Path]:
    path = Path(source)
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from _walk(path, tuple(suffixes) if suffixes else ("",), set(exclude))
    elif glob.has_magic(source):
        yield from _globbed(source)
    else:
        raise DataError(f"source {source}: no such file or folder. {hint}.")


def _globbed(pattern: str) -> Iterator[Path]:
    head = pattern
    while head != (head := os.path.dirname(head)):  # noqa: PTH120 (Path drops what `**/` ends in)
        for folder in filter(os.path.isdir, _matches(head or ".")):
            os.scandir(folder).close()  # glob itself treats an unreadable folder as empty
    yield from filter(_is_file, map(Path, _matches(pattern)))


def _matches(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob: relative only)


def _walk(folder: Path, endings: tuple[str, ...], exclude: set[str]) -> Iterator[Path]:
    links: list[Path] = []
    stores: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in exclude)
        if ZARR & set(names):
            stores.append(Path(parent))
            folders.clear()
            continue
        links += [path for name in folders if (path := Path(parent, name)).is_symlink()]
        for name in sorted(set(names) - exclude):
            path = Path(parent, name)
            if not name.startswith(".") and name.endswith(endings) and _is_file(path):
                yield path
    if folder in stores:
        raise DataError(
            f"source {folder}: a Zarr store, which is not text. Name what it was built from."
        )
    _mention(links, "links to folders are not followed", "Name their targets as sources, too")
    _mention(stores, "Zarr stores are left out", "Name what they were built from")


def _mention(paths: Sequence[Path], what: str, remedy: str) -> None:
    if paths:
        more = f" and {len(paths) - 3} more" if paths[3:] else ""
        named = ", ".join(map(str, paths[:3])) + more
        _log.warning("SOURCES: %s: %s. %s, or silence this with --exclude.", what, named, remedy)


def _is_file(path: Path) -> bool:
    """Like `Path.is_file`, but raise OSError where that is not known, as for a broken link."""
    return stat.S_ISREG(path.stat().st_mode)


def _refuse(error: OSError) -> None:
    raise error
