"""How a file begins: containers of other formats are refused before they are read as text."""

from tttscale.data.builder.documents import FileRange
from tttscale.data.builder.file_formats import is_compressed
from tttscale.data.builder.streams import Stream
from tttscale.errors import DataError

_HEAD_BYTES = 1 << 12
UTF8_MARK = b"\xef\xbb\xbf"
_CONTAINERS = {
    b"\x1f\x8b\x08": "gzip data",
    b"\x28\xb5\x2f\xfd": "Zstandard data",
    b"\xfd7zXZ\0": "xz data",
    b"BZh91AY&SY": "bzip2 data",
    b"PK\x03\x04": "a zip archive",
    b"PAR1\x15": "Parquet",
    b"ARROW1\0\0": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"%PDF-": "a PDF",
}
"""How files begin that are not supported, or have to be read in another way."""


def head_of(file_range: FileRange, file: Stream) -> bytes:
    """Read how the file begins, and check that this is not another format.

    Raises:
        DataError: it is another format.
    """
    head = file.read(_HEAD_BYTES)
    found = next((name for magic, name in _CONTAINERS.items() if head.startswith(magic)), None)
    if found:
        inside = " inside" if is_compressed(file_range.path) else ""
        raise DataError(
            f"source {file_range.path}: read as {file_range.kind}, but holds {found}{inside}. Give it "
            "the ending of what it is (.gz, .zst, .bz2, .xz or .parquet), or convert it to one of these."
        )
    return head
