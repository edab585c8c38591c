"""Reading files that may be compressed: in bounded memory, and every error names the file."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tttscale.errors import DataError
from tttscale.packages import needed, one_line

READ_BYTES = 1 << 18
_GZIP_WINDOW = 31
"""zlib's number for a gzip member with any window, whose checksum is compared."""
_XZ_MEMORY_BYTES = 1 << 30
_HEADER_BYTES, _ZSTD_MAGIC, _ZSTD_CHECKSUM = 5, b"\x28\xb5\x2f\xfd", 0x04


class Stream:
    """A file's bytes, decompressed as they are read.

    Members that follow each other are read as one. Whatever a library raises, and a file that is cut
    short, empty or followed by other bytes, is one DataError with the file's name.

    Args:
        path: the file; the ending of its name says how it is compressed.

    Raises:
        DataError: it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._head = b""
        self.unchecked = False
        """Whether it is compressed without a checksum, so that damage may go unnoticed."""
        try:
            self._file = self._open()
        except DataError:
            raise
        except Exception as error:
            raise self._error(error) from error

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end.

        Raises:
            DataError: the file is damaged.
        """
        try:
            return self._file.read(size)
        except Exception as error:
            raise self._error(error) from error

    def readline(self, size: int) -> bytes:
        """The rest of a line with its newline, up to `size` bytes of it.

        Raises:
            DataError: the file is damaged.
        """
        try:
            return self._file.readline(size)
        except Exception as error:
            raise self._error(error) from error

    def seek(self, offset: int) -> None:
        """Move to a byte of a file that is not compressed.

        Raises:
            DataError: the file system refuses.
        """
        try:
            self._file.seek(offset)
        except Exception as error:
            raise self._error(error) from error

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _open(self) -> io.BufferedReader:
        raw = Path(self.path).open("rb", buffering=0)  # noqa: SIM115 (closed by __exit__)
        make = CODECS.get(Path(self.path).suffix.lower())
        if make is None:
            return io.BufferedReader(raw, READ_BYTES)
        try:
            head = self._head = raw.read(_HEADER_BYTES)
            raw.seek(0)
            self.unchecked = head[:4] == _ZSTD_MAGIC and not head[-1] & _ZSTD_CHECKSUM
            return io.BufferedReader(_Decompressed(raw, make), READ_BYTES)
        except BaseException:
            raw.close()
            raise

    def _begins_as_named(self) -> bool:
        """Whether the file begins as its ending says; an empty one and one that is cut short do."""
        magic = _MAGIC[Path(self.path).suffix.lower()]
        return any(m.startswith(self._head[: len(m)]) for m in magic)

    def _error(self, error: Exception) -> DataError:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        name = _NAMES.get(Path(self.path).suffix.lower())
        if name and not self._begins_as_named():
            return DataError(
                f"source {self.path}: its ending says {name}, but it does not begin as {name} does. "
                "Fetch it again, give it the ending of what it is, or leave it out."
            )
        return DataError(f"source {self.path}: {reason}. Fetch it again, or leave it out.")


class _Decompressed(io.RawIOBase):
    """Compressed members, one after the other, as one raw stream of what they hold."""

    def __init__(self, file: BinaryIO | io.FileIO, make: Callable[[], Any]) -> None:
        self._file, self._make = file, make
        self._codec, self._input = make(), b""
        self._padding = b"\0" if self._codec.padded else b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _next(self, most_bytes: int) -> bytes:
        while True:
            if self._codec.eof:
                rest = self._codec.unused_data.lstrip(self._padding)
                while not rest:
                    data = self._file.read(READ_BYTES)
                    if not data:
                        return b""
                    rest = data.lstrip(self._padding)
                self._codec, self._input = self._make(), rest
            elif self._codec.needs_input and not self._input:
                self._input = self._file.read(READ_BYTES)
                if not self._input:
                    raise EOFError("cut short: it ends before its compressed data does")
            data = self._codec.decompress(self._input, most_bytes)
            self._input = b""
            if data:
                return data


class _Codec:
    """One member: what the libraries' decompressors have in common.

    Args:
        codec: the library's.
        padded: whether zeros may follow a member, as `tar` and `xz` write them.
    """

    def __init__(self, codec: Any, padded: bool = False) -> None:
        self._codec, self.padded = codec, padded

    @property
    def eof(self) -> bool:
        return self._codec.eof

    @property
    def needs_input(self) -> bool:
        return self._codec.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._codec.unused_data

    def decompress(self, data: bytes, most_bytes: int) -> bytes:
        return self._codec.decompress(data, most_bytes)


class _Gzip(_Codec):
    """One member of gzip: zlib leaves the input that it has not used to its caller."""

    _filled = False

    @property
    def needs_input(self) -> bool:
        return not self._codec.unconsumed_tail and not self._filled

    def decompress(self, data: bytes, most_bytes: int) -> bytes:
        found = self._codec.decompress(self._codec.unconsumed_tail + data, most_bytes)
        self._filled = len(found) == most_bytes  # then zlib itself may hold back more
        return found


def _gzip() -> _Codec:
    with needed("zlib", "a .gz source", "Use a Python that was built with zlib."):
        import zlib
    return _Gzip(zlib.decompressobj(_GZIP_WINDOW), padded=True)


def _bzip2() -> _Codec:
    with needed("bz2", "a .bz2 source", "Use a Python that was built with bz2, or .gz files."):
        import bz2
    return _Codec(bz2.BZ2Decompressor())


def _xz() -> _Codec:
    with needed("lzma", "a .xz source", "Use a Python that was built with lzma, or .gz files."):
        import lzma
    return _Codec(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES), padded=True)


def _zstd() -> _Codec:
    with needed("backports.zstd", "a .zst source", "Run `pip install backports.zstd`."):
        from backports import zstd
    return _Codec(zstd.ZstdDecompressor())


CODECS: dict[str, Callable[[], _Codec]] = {
    ".gz": _gzip,
    ".zst": _zstd,
    ".bz2": _bzip2,
    ".xz": _xz,
}
"""By the ending of the file's name."""

_NAMES = {".gz": "gzip", ".zst": "Zstandard", ".bz2": "bzip2", ".xz": "xz"}
_MAGIC = {
    ".gz": (b"\x1f\x8b",),
    ".zst": (_ZSTD_MAGIC, *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60))),
    ".bz2": (b"BZh",),
    ".xz": (b"\xfd7zXZ",),
}
"""How files of these endings begin; a .zst may also begin with one of the skippable frames."""
