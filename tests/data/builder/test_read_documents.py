import gzip
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from tttscale.data.builder.documents import FileRange
from tttscale.data.builder.read_documents import read_documents
from tttscale.data.builder.source_slices import cut_sources
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


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text(max_size=12), max_size=12),
    newline=st.booleans(),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_any_cut_of_json_lines_gives_every_line_once(tmp_path_factory, texts, newline, cuts):
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    path.write_text(lines + "\n" * newline)
    size = path.stat().st_size
    borders = sorted({0, size, *(cut for cut in cuts if cut < size)})
    parts = [text for a, b in pairwise(borders) for text in read(path, begin=a, end=b)]
    assert parts == [text for text in texts if text]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            b"{nonsense",
            "not JSON: expecting property name enclosed in double quotes at character 2",
        ),
        (b'["a"]', "expected an object, found list"),
        (b'{"body": "a", "id": 1}', "no key 'text', only body, id"),
        (b'{"text": 7}', "'text' is int, not a string"),
        (b'{"text": "\\ud800"}', "surrogates not allowed"),
        (b'{"text": "\xff"}', "invalid start byte"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"text": ' + b"7" * 5000 + b"}", "it has a number of too many digits"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, reason):
    path = tmp_path / "bad.jsonl"
    first = json.dumps({"text": "fine"}).encode() + b"\n"
    path.write_bytes(first + line + b"\n")
    for begin in (0, len(first)):  # also where a worker never saw the lines before
        with pytest.raises(DataError, match=rf"bad\.jsonl:2: .*{reason}.*--text-key"):
            read(path, begin=begin)


def write_table(path, column, **options):
    pq.write_table(pa.table({"text": column, "id": range(len(column))}), path, **options)
    return path


def test_parquet_by_row_groups(tmp_path):
    texts = [f"text {i}" for i in range(1000)]
    path = write_table(tmp_path / "a.parquet", texts, row_group_size=300)
    assert read(path, begin=0, end=4) == texts
    assert read(path, begin=1, end=3) == texts[300:900]
    slices = cut_sources([path], ())
    assert [(r.begin, r.end) for one in slices for r in one.file_ranges] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]


def test_bad_parquet_is_named(tmp_path):
    path = write_table(tmp_path / "a.parquet", ["fine", None])
    with pytest.raises(DataError, match=r"a\.parquet row 1: 'text' is NoneType"):
        read(path, end=1)
    with pytest.raises(DataError, match=r"no column 'body', only text, id.*--text-key"):
        read(path, end=1, text_key="body")
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a\.parquet: not a Parquet file"):
        cut_sources([path], ())


def test_names_of_slices_follow_the_sources(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = [one.name for one in cut_sources([path], ("tokenizer",))]
    assert [one.name for one in cut_sources([path], ("tokenizer",))] == before
    assert [one.name for one in cut_sources([path], ("another",))] != before
    path.write_text("two!")
    assert [one.name for one in cut_sources([path], ("tokenizer",))] != before


def test_small_files_share_a_slice_and_large_ones_are_cut(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text("x" * 1000)
    big = tmp_path / "big.jsonl"
    big.write_text('{"text": "x"}\n' * 200_000)
    slices = cut_sources([*sorted(tmp_path.glob("*.txt")), big], ())
    assert len(slices[0].file_ranges) == 20
    assert [r.begin for one in slices[1:] for r in one.file_ranges] == [0, 1 << 20, 2 << 20]
    assert sum(one.size_bytes for one in slices) == 20_000 + big.stat().st_size
