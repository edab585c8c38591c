"""Files and folders that appear whole or not at all, and how to know them again."""

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, NamedTuple

_DIGEST_BYTES = 16
_AHEAD = 2
"""Pieces of a file that may wait to be hashed."""


class Written(NamedTuple):
    """What was written to a file."""

    bytes: int
    blake2b: str
    """16-byte digest, hexadecimal."""


_noted: ContextVar[dict[Path, Written] | None] = ContextVar("_noted", default=None)


@contextmanager
def noting_digests() -> Iterator[dict[Path, Written]]:
    """Inside, the digest of what `replaced` writes is made while it is written, and noted by path.

    It is that of what was meant to be written, and no file is read again for it.
    """
    notes: dict[Path, Written] = {}
    token = _noted.set(notes)
    try:
        yield notes
    finally:
        _noted.reset(token)


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place only when it is whole and on disk."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file, _hashed(file, path) as writer:
            yield writer
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _hashed(file: IO[bytes], path: Path) -> Iterator[Any]:
    """The file, or one that notes what is written to it."""
    notes = _noted.get()
    if notes is None:
        yield file
        return
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as thread:
        writer = _Hashing(file, thread)
        yield writer
        notes[path] = writer.written()


class _Hashing:
    """Writes to a file, and hashes the same bytes in a thread meanwhile."""

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
        """Of all that was written so far."""
        while self._pending:
            self._pending.popleft().result()
        return Written(self._bytes, self._hash.hexdigest())

    def flush(self) -> None:
        """As of the file."""
        self._file.flush()

    def fileno(self) -> int:
        """As of the file."""
        return self._file.fileno()


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
        made = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES))
    return made.hexdigest()


def digest_of(data: bytes) -> str:
    """16-byte blake2b of `data`, hexadecimal."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
