"""Finding out before long work whether its results can be written; and errors that name the place."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tttscale.errors import ConfigError, cannot_write


def check_folder(folder: Path, option: str = "--out", names: Sequence[str] = ()) -> None:
    """Check a folder of results, which may have to be made.

    Args:
        folder: of the results.
        option: that has named it.
        names: of the files that will be written or replaced.

    Raises:
        ConfigError: they cannot be written.
    """
    above = folder
    while not above.exists() and above.parent != above:
        above = above.parent
    problem = _of_folder(above)
    for name in names:
        problem = problem or _of_file(folder / name)
    if problem:
        raise _error(folder, option, problem, "folder")


def check_file(path: Path, option: str) -> None:
    """Check a file of results, whose folder must be there.

    Args:
        path: of the file.
        option: that has named it.

    Raises:
        ConfigError: it cannot be written or replaced.
    """
    folder = path.parent
    missing = None if os.path.lexists(folder) else f"there is no folder {folder}"
    if problem := missing or _of_folder(folder) or _of_file(path):
        raise _error(path, option, problem, "file")


@contextmanager
def writing(path: Path, option: str = "") -> Iterator[None]:
    """Turn errors of the file system into one that names the path.

    Args:
        path: of the file or folder.
        option: that has named it, if one has.

    Raises:
        DiskError: the disk is full or fails.
        ConfigError: the file system refused for another reason.
    """
    try:
        yield
    except OSError as error:
        text = (
            f"{option} {path}: cannot write: {error}. Check space and permissions, or name another."
        )
        raise cannot_write(error, text.lstrip()) from error


def _of_folder(folder: Path) -> str | None:
    try:
        if not folder.is_dir():
            return f"{folder} is not a folder"
    except OSError as error:
        return str(error)
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written to"


def _of_file(path: Path) -> str | None:
    """What is wrong with a name at which a file is to be: only an ordinary file is replaced."""
    try:
        if path.is_symlink():
            return f"{path} is a link, which is not written through; remove it"
        if not path.exists():
            return None
        if path.is_dir():
            return f"{path} is a folder"
        if not path.is_file():
            return f"{path} is not an ordinary file"
    except OSError as error:
        return str(error)
    return None if os.access(path, os.W_OK) else f"{path} cannot be written to"


def _error(path: Path, option: str, problem: str, kind: str) -> ConfigError:
    return ConfigError(
        f"{option} {path}: {problem}. Name another {kind} with {option}, or check its permissions."
    )
