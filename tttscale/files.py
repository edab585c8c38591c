"""Files and folders that appear whole or not at all, and how to know them again."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place only when it is whole and on disk."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """A text file that appears whole or not at all; what was there before stays until then."""
    with replaced(path) as file:
        file.write(text.encode())


def free_name(path: Path) -> Path:
    """PATH-N with the first number that is free, to set something aside under."""
    number = 1
    while (target := path.with_name(f"{path.name}-{number}")).exists() or target.is_symlink():
        number += 1
    return target


def sync(path: Path) -> None:
    """Asks the system to put a file or folder on disk before anything that depends on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """16-byte blake2b of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest_of(data: bytes) -> str:
    """16-byte blake2b of `data`, hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
