"""Reading msgpack without its contents: the heads of values, a few bytes each, in files larger than memory.

Every length is compared with the bytes that are left before anything is read, so no number in a file takes
memory or time. It knows the types that checkpoints are made of; a float, a timestamp or an end of the file in
the middle of a value is an error. (A library for msgpack reads values whole, also those to be skipped, and
takes a file that was cut for one that ends.)
"""

from typing import IO, Literal, NamedTuple

Kind = Literal["int", "bool", "str", "bin", "array", "map", "ext"]
_SIZED: dict[int, tuple[Kind, int]] = {  # first byte -> kind, and bytes of the length that follows
    **{0xC4 + i: ("bin", 1 << i) for i in range(3)},
    **{0xC7 + i: ("ext", 1 << i) for i in range(3)},
    **{0xD9 + i: ("str", 1 << i) for i in range(3)},
    **{0xDC + i: ("array", 2 << i) for i in range(2)},
    **{0xDE + i: ("map", 2 << i) for i in range(2)},
}


class Head(NamedTuple):
    """The beginning of a value."""

    kind: Kind
    size: int
    """Bytes of a text, of bytes or of an extension; items of an array or a map; the number itself."""
    code: int = 0
    """Type of an extension."""


class Cursor:
    """A place in a region of a file."""

    def __init__(self, file: IO[bytes], begin: int, end: int) -> None:
        """Stand at the beginning.

        Args:
            file: opened to be read; others may move in it.
            begin: first byte of the region.
            end: the byte after it.
        """
        self._file, self.position, self.end = file, begin, end

    def take(self, count: int) -> bytes:
        """Read bytes.

        Raises:
            ValueError: so many are not left.
        """
        begin = self.position
        self._skip(count)
        self._file.seek(begin)
        data = self._file.read(count)
        if len(data) < count:
            raise ValueError("the file became shorter while it was read")
        return data

    def head(self) -> Head:
        """Read the beginning of a value.

        Raises:
            ValueError: it is of another type than those that occur, or is cut.
        """
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return Head("int", first if first < 0x80 else first - 0x100)
        if first < 0xC0:
            kind: Kind = "str" if first >= 0xA0 else "array" if first >= 0x90 else "map"
            return Head(kind, first & (0x1F if first >= 0xA0 else 0x0F))
        if first in (0xC2, 0xC3):
            return Head("bool", first - 0xC2)
        if first in _SIZED:
            kind, length = _SIZED[first]
            size = int.from_bytes(self.take(length), "big")
            return Head(kind, size, self.take(1)[0] if kind == "ext" else 0)
        if 0xCC <= first <= 0xD3:
            width = 1 << (first & 3)
            return Head("int", int.from_bytes(self.take(width), "big", signed=first >= 0xD0))
        if 0xD4 <= first <= 0xD8:
            return Head("ext", 1 << (first - 0xD4), self.take(1)[0])
        raise ValueError(
            f"byte 0x{first:02x} at {self.position - 1:,} begins no value that occurs here"
        )

    def expect(self, kind: Kind) -> int:
        """Read the beginning of a value of this kind, and return its size.

        Raises:
            ValueError: it is of another kind, or is cut.
        """
        at, head = self.position, self.head()
        if head.kind != kind:
            raise ValueError(f"expected {kind} at byte {at:,}, found {head.kind}")
        return head.size

    def text(self, limit_bytes: int) -> str:
        """Read a text.

        Raises:
            ValueError: it is none, too long, or not UTF-8.
        """
        size = self.expect("str")
        if size > limit_bytes:
            raise ValueError(f"it has a name of {size:,} bytes")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise ValueError("it has a name that is not UTF-8") from None

    def region(self, size: int) -> "Cursor":
        """Skip so many bytes; they can be read through the cursor that is returned.

        Raises:
            ValueError: so many are not left.
        """
        begin = self.position
        self._skip(size)
        return Cursor(self._file, begin, self.position)

    def finish(self) -> None:
        """Check that the region is at its end.

        Raises:
            ValueError: bytes are left over.
        """
        if self.position < self.end:
            raise ValueError(f"{self.end - self.position:,} bytes are left over in it")

    def _skip(self, count: int) -> None:
        left = self.end - self.position
        if count > left:
            raise ValueError(f"it needs {count:,} bytes more, and {left:,} are left")
        self.position += count
