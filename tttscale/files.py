"""Files and folders that appear whole or not at all, never through a link; and how to know them again."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_ordinary(path: Path) -> BufferedReader:
    """Open a file to read it; whatever else stands under its name is not waited for.

    Raises:
        OSError: there is none, or it is a folder, a pipe, a socket or a device.
    """
    _check_ordinary(path.stat().st_mode, path)  # before opening: a device may act on it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(_checked(descriptor, path), "rb")


def open_new(path: Path) -> IO[bytes]:
    """An empty file; what stood there, be it a link, is removed and not written through.

    Raises:
        OSError: the file system refused, or a folder stands there.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def open_end(path: Path) -> IO[bytes]:
    """A file to read and to append to, made if there is none.

    Raises:
        OSError: the file system refused, or no ordinary file stands there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            what = "a link, which is not written through; remove it"
            raise OSError(errno.ELOOP, what, str(path)) from None
        raise
    return os.fdopen(_checked(descriptor, path), "r+b")


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place only when it is whole and on disk."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    file = open_new(partial)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole file of UTF-8, in place of what stood there.

    Raises:
        OSError: the file system refused; what stood there is as it was.
    """
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
    with open_ordinary(path) as file:
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


def _checked(descriptor: int, path: Path) -> int:
    try:
        _check_ordinary(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_ordinary(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))
