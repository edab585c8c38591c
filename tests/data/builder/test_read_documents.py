import gzip
from pathlib import Path

import pytest
from backports import zstd

from tttscale.data.builder.documents import FileRange
from tttscale.data.builder.read_documents import read_documents
from tttscale.errors import DataError

LINES = b'{"text": "one"}\n\n{"text": ""}\n{"text": "zw\xc3\xb6lf", "id": 3}\n'


def read(path, *, begin=0, end=None, text_key="text"):
    size = path.stat().st_size
    span = FileRange(str(path), begin, size if end is None else end, size)
    return [document.data.decode() for document in read_documents(span, text_key)]


def compress(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":  # two frames, as `cat a.zst b.zst` makes them
        half = len(data) // 2
        path.write_bytes(zstd.compress(data[:half]) + zstd.compress(data[half:]))
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_text_and_json_lines_plain_and_compressed(tmp_path, ending):
    assert read(compress(tmp_path / f"a.txt{ending}", b"all of it\n")) == ["all of it\n"]
    assert read(compress(tmp_path / f"a.jsonl{ending}", LINES)) == ["one", "zwölf"]
    bodies = b'{"body": "one"}'
    assert read(compress(tmp_path / f"b.ndjson{ending}", bodies), text_key="body") == ["one"]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_names_in_capitals_are_read_alike(tmp_path, ending):
    plain = compress(tmp_path / f"a.jsonl{ending}", LINES)
    assert read(plain.rename(tmp_path / f"A.JSONL{ending.upper()}")) == ["one", "zwölf"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("harm", [lambda data: data[:-9], lambda data: b"nonsense" + data])
def test_broken_compressed_files_are_refused(tmp_path, ending, harm):
    path = compress(tmp_path / f"a.jsonl{ending}", LINES * 50)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(DataError, match=rf"source .*a\.jsonl{ending}: .*Fetch it again"):
        read(path)


@pytest.mark.parametrize(
    ("ending", "name"),
    [(".gz", "gzip"), (".zst", "Zstandard"), (".bz2", "bzip2"), (".xz", "xz")],
)
def test_plain_text_with_a_compressed_ending_is_called_so(tmp_path, ending, name):
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(LINES)
    said = rf"ending says {name}, but it does not begin as {name} does.*the ending of what it is"
    with pytest.raises(DataError, match=said):
        read(path)
