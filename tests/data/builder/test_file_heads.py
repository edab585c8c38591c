"""A container of another format is refused before it is read as text."""

import bz2
import gzip
import lzma

import pytest
from backports import zstd

from tttscale.data.builder.documents import FileRange
from tttscale.data.builder.file_heads import head_of
from tttscale.data.builder.streams import Stream
from tttscale.errors import DataError

TEXT = b"some text\n" * 1000


def head(path):
    with Stream(str(path)) as file:
        return head_of(FileRange(str(path), 0, 1, 1), file)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (gzip.compress(TEXT), "gzip data"),
        (zstd.compress(TEXT), "Zstandard data"),
        (lzma.compress(TEXT), "xz data"),
        (bz2.compress(TEXT), "bzip2 data"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"PAR1\x15rest", "Parquet"),
        (b"ARROW1\0\0rest", "an Arrow file"),
        (b"Obj\x01rest", "an Avro file"),
        (b"%PDF-1.7", "a PDF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_is_called_by_its_name(tmp_path, data, found):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        head(path)
    said = str(caught.value)
    assert said.startswith(f"source {path}: read as text, but holds {found}. Give it the ending")
    assert "convert it" in said


def test_compressed_twice_is_found_inside(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.compress(TEXT)))
    with pytest.raises(DataError, match=r"read as jsonl, but holds gzip data inside\. Give"):
        head(path)


@pytest.mark.parametrize("data", [TEXT, b"", b"PK", b"BZh", b"%PDF", b"\x1f\x8b"], ids=repr)
def test_text_is_no_container_and_its_first_bytes_are_handed_on(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert head(path) == data[:4096]
