"""A folder that appears only when it is complete, and the digests of what is in it."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tttscale.data.manifest import FileInfo
from tttscale.errors import DataError


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end, and is removed on any error.

    What a killed build left is cleared by the next one; a lock tells it from a build still running.

    Raises:
        DataError: `out` exists, another process builds it, or the disk refuses.
    """
    _refuse_existing(out)
    building = out.with_name(out.name + ".building")
    try:
        building.mkdir(parents=True, exist_ok=True)
        with _locked(building, out):
            try:
                _clear(building)
                yield building
                _refuse_existing(out)
                sync(building)
                building.rename(out)
                sync(out.parent)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
    except OSError as error:
        raise DataError(
            f"building {out}: {error}. Nothing was kept; check space and permissions, then rerun."
        ) from error


def sync(path: Path) -> None:
    """Asks the system to put a file or folder on disk before anything that depends on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_files(root: Path) -> dict[str, FileInfo]:
    """Size and digest of every file below `root` but its own `zarr.json`; puts them on disk too."""
    files = {}
    for path in sorted(path for path in root.rglob("*") if path != root / "zarr.json"):
        sync(path)
        if path.is_file():
            size = path.stat().st_size
            files[path.relative_to(root).as_posix()] = FileInfo(bytes=size, blake2b=digest(path))
    return files


def digest(path: Path) -> str:
    """16-byte blake2b of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextmanager
def _locked(building: Path, out: Path) -> Iterator[None]:
    descriptor = os.open(building, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"OUT {out}: another process is building it in {building}. Wait for it, or name "
                "another OUT."
            ) from error
        yield
    finally:
        os.close(descriptor)  # gives the lock back


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise DataError(
            f"OUT {out}: already exists, and a build never overwrites. Name another OUT, or "
            "remove it first."
        )


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
