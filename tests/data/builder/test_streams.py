"""Compressed files: the right bytes, or one error that names the file."""

import bz2
import gzip
import lzma
import zlib

import pytest
from backports import zstd

from tttscale.data.builder.documents import (
    BadDocument,
    Document,
    FileRange,
)
from tttscale.data.builder.read_documents import read_all, read_documents
from tttscale.data.builder.streams import CODECS, Stream
from tttscale.errors import DataError

LINES = b"".join(b'{"text": "line %d of some words"}\n' % i for i in range(60))
CHECKED = {zstd.CompressionParameter.checksum_flag: 1}
COMPRESS = {
    ".gz": gzip.compress,
    ".zst": lambda data: zstd.compress(data, options=CHECKED),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def members(ending):
    """Two, one after the other, as `cat a.gz b.gz` makes them; and where the second begins."""
    first, second = (COMPRESS[ending](half) for half in (LINES[:900], LINES[900:]))
    return first + second, len(first)


def read(path):
    with Stream(path) as file:
        return file.read(1 << 30)


def test_every_codec_is_tried():
    assert set(COMPRESS) == set(CODECS)


@pytest.mark.parametrize("ending", COMPRESS)
def test_members_are_read_as_one_by_any_sizes(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(members(ending)[0])
    with Stream(path) as file:
        assert b"".join(iter(lambda: file.readline(1 << 20), b"")) == LINES
    with Stream(path) as file:
        assert b"".join(iter(lambda: file.read(7), b"")) == LINES


@pytest.mark.parametrize("ending", COMPRESS)
def test_every_flipped_bit_gives_the_right_bytes_or_one_error(tmp_path, ending):
    path, (good, _) = tmp_path / f"a{ending}", members(ending)
    refused = []
    for bit in range(len(good) * 8):
        harmed = bytearray(good)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        try:
            assert read(path) == LINES, bit  # a header's time or name
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > len(good) * 7
    assert all(message.startswith(f"source {path}: ") for message in refused)


@pytest.mark.parametrize("ending", COMPRESS)
def test_what_is_cut_short_empty_or_goes_on_as_something_else_is_refused(tmp_path, ending):
    path, (good, border) = tmp_path / f"a{ending}", members(ending)
    for size in [*range(border), *range(border + 1, len(good))]:
        path.write_bytes(good[:size])
        with pytest.raises(DataError, match=rf"source .*a\{ending}: .*Fetch it again"):
            read(path)
    for garbage in (b"garbage", b"\1" * 4096):
        path.write_bytes(good + garbage)
        with pytest.raises(DataError, match=rf"source .*a\{ending}: "):
            read(path)


@pytest.mark.parametrize("ending", [".gz", ".xz"])
def test_zeros_may_follow(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(members(ending)[0] + bytes(600_000))
    assert read(path) == LINES


def test_output_that_zlib_holds_back_is_not_lost(tmp_path):
    """A long match may be given out only after all of the input was taken."""
    path = tmp_path / "a.gz"
    data = b"a" * 100_003
    path.write_bytes(gzip.compress(data))
    for size in (1, 257, 258, 4096):
        codec = CODECS[".gz"]()
        found, block = b"", path.read_bytes()
        while not codec.eof:
            found += codec.decompress(block if codec.needs_input else b"", size)
            block = b""
        assert found == data


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_bomb_is_bounded(tmp_path, name, monkeypatch):
    """A line, or a text, that expands to a gigabyte: not more than what is allowed is held."""
    path = tmp_path / f"{name}.gz"
    codec = zlib.compressobj(wbits=31)
    with path.open("wb") as file:
        for _ in range(64):
            file.write(codec.compress(bytes(1 << 20)))
        file.write(codec.flush())
    assert path.stat().st_size < 1 << 17
    span = FileRange(str(path), 0, 1, 1)
    (found,) = read_all(span, "text", 1 << 16)
    assert isinstance(found, BadDocument)
    with pytest.raises(DataError, match=rf"{name}\.gz.* 65,536.*--longest-document"):
        list(read_documents(span, "text", 1 << 16))


def test_lines_that_are_too_long_do_not_hide_the_others(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "' + b"x" * 5000 + b'"}\n{"text": "three"}\n')
    for begin in (0, 16, 40):
        found = list(read_all(FileRange(str(path), begin, 6000, 1), "text", 100))
        documents = [one.data for one in found if isinstance(one, Document)]
        assert documents == [b"one", b"three"][begin > 0 :]
        assert [one.at for one in found if isinstance(one, BadDocument)] == [16] * (begin < 40)


def test_a_frame_without_a_checksum_is_remarked(tmp_path):
    for options, notices in ((None, ["unchecked"]), (CHECKED, [])):
        path = tmp_path / "a.jsonl.zst"
        path.write_bytes(zstd.compress(LINES, options=options))
        found = list(read_all(FileRange(str(path), 0, 1, 1), "text"))
        assert [one.what for one in found if not isinstance(one, Document | BadDocument)] == notices
