"""Writing files and folders whole or not at all, never through a link; and their digests."""

import errno
import hashlib
import os
import shutil
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple

_DIGEST_BYTES = 16
_AHEAD = 2
"""Writes to a file that may wait to be hashed."""


class Written(NamedTuple):
    """What was written to a file."""

    bytes: int
    blake2b: str
    """16-byte digest, hexadecimal."""


_noted: ContextVar[dict[Path, Written] | None] = ContextVar("_noted", default=None)


@contextmanager
def noting_digests() -> Iterator[dict[Path, Written]]:
    """Digest what `replaced` writes inside this context, while it is written, and note it by path.

    The digest is of the bytes that were passed to `write`; no file is read again for it.
    """
    notes: dict[Path, Written] = {}
    token = _noted.set(notes)
    try:
        yield notes
    finally:
        _noted.reset(token)


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_ordinary(path: Path) -> BufferedReader:
    """Open an ordinary file to read it, without ever waiting for a pipe or a device.

    Raises:
        OSError: it is missing, or is a folder, a pipe, a socket or a device.
    """
    _check_ordinary(path.stat().st_mode, path)  # before opening: a device may act on it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(_checked(descriptor, path), "rb")


def open_new(path: Path) -> IO[bytes]:
    """Open an empty file; an earlier file or link of this name is removed, not written through.

    Raises:
        OSError: the file system refused, or a folder has this name.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def open_end(path: Path) -> IO[bytes]:
    """Open a file to read and to append to; make it if it is missing.

    Raises:
        OSError: the file system refused, or it is not an ordinary file.
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
    """Write a file that takes its place only when it is whole and on disk."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    file = open_new(partial)
    try:
        with file, _hashed(file, path) as writer:
            yield writer
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that takes its name only when all of it is on disk.

    Args:
        path: which does not exist; the folders above it are made.

    Raises:
        FileExistsError: there is something of this name.
        OSError: the file system refused; nothing half-written is left.
    """
    _check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    if os.path.lexists(partial):  # of a process that was killed; in containers numbers repeat
        partial = free_name(partial)
    partial.mkdir()
    try:
        yield partial
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        _check_free(path)  # a rename would take the place of an empty folder
        _rename_new(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole file of UTF-8, in place of an earlier one.

    Raises:
        OSError: the file system refused; an earlier file is unchanged.
    """
    with replaced(path) as file:
        file.write(text.encode())


def free_name(path: Path) -> Path:
    """PATH-N with the first free number, to move an earlier file or folder to."""
    number = 1
    while (target := path.with_name(f"{path.name}-{number}")).exists() or target.is_symlink():
        number += 1
    return target


@contextmanager
def _hashed(file: IO[bytes], path: Path) -> Iterator[Any]:
    """Yield the file, or a writer that digests what is written to it."""
    notes = _noted.get()
    if notes is None:
        yield file
        return
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as thread:
        writer = _Hashing(file, thread)
        yield writer
        notes[path] = writer.written()


class _Hashing:
    """Write to a file, and hashes the same bytes in a thread meanwhile."""

    def __init__(self, file: IO[bytes], thread: ThreadPoolExecutor) -> None:
        self._file, self._thread = file, thread
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._pending: deque[Future[None]] = deque()
        self._bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it; it may not change until the file is closed."""
        if len(self._pending) == _AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._hash.update, data))
        count = self._file.write(data)
        self._bytes += count
        return count

    def written(self) -> Written:
        """Size and digest of all that was written so far."""
        while self._pending:
            self._pending.popleft().result()
        return Written(self._bytes, self._hash.hexdigest())

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._file.fileno()


def sync(path: Path) -> None:
    """Sync a file or folder to disk, before anything that depends on it is written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """16-byte blake2b of a file, hexadecimal."""
    with open_ordinary(path) as file:
        made = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES))
    return made.hexdigest()


def digest_of(data: bytes) -> str:
    """16-byte blake2b of `data`, hexadecimal."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _rename_new(folder: Path, path: Path) -> None:
    """Rename a folder.

    Raises:
        FileExistsError: another process was faster.
        OSError: the file system refused.
    """
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        raise


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
