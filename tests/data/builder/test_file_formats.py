"""What a file holds is declared by its name or by --format, and never guessed."""

import gzip
import json

import pytest
from backports import zstd

from tests.data.builder.test_store_builder import documents_of
from tests.data.conftest import build
from tttscale.data import open_store
from tttscale.data.builder.file_formats import ENDINGS, NAMES, UNSUPPORTED, FileFormats, kind_of
from tttscale.errors import DataError

TEXTS = [f"document {i}" for i in range(200)]
LINES = "".join(json.dumps({"text": text, "url": "http://x"}) + "\n" for text in TEXTS).encode()


def built(tmp_path, *sources, **options):
    info = build(tmp_path / "out", *sources, **{"holdout_fraction": 0} | options)
    return info, documents_of(open_store(tmp_path / "out"), "train")


@pytest.mark.parametrize(
    "name",
    [
        "c4-train.00000-of-01024.json.gz",
        "books-0000.json",
        "a.json.zst",
        "a.jsonlines",
        "a.JL",
        "a.ndjson.gz",
        "A.JSON.GZ",
    ],
)
def test_json_lines_by_any_of_their_names(tmp_path, name):
    data = LINES
    if name.lower().endswith(".gz"):
        data = gzip.compress(LINES)
    elif name.endswith(".zst"):
        data = zstd.compress(LINES)
    (tmp_path / name).write_bytes(data)
    info, documents = built(tmp_path, tmp_path / name)
    assert documents == TEXTS
    assert [how for how in info.build.formats if "as jsonl (by ending)" in how]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (json.dumps([{"text": "a"}] * 9).encode(), r"one JSON array.*jq -c '\.\[\]'"),
        (json.dumps([{"text": "a"}] * 99_999, indent=1).encode(), "one JSON array"),
        (json.dumps({"text": "a", "b": 1}, indent=2).encode(), r"over several lines.*jq -c \."),
        ('{"text": "a"}\n'.encode("utf-16"), "UTF-16"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_json_that_is_not_lines_is_refused_whole(tmp_path, name, data, found):
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(DataError, match=rf"source .*{name}: .*{found}"):
        built(tmp_path, tmp_path / name, skip_bad=9)
    assert not list(tmp_path.glob("out*"))


def test_unknown_endings_are_refused_together_before_the_build(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.blob", "b.blob", "part-00000", "c.txt", "README"):
        (folder / name).write_bytes(LINES)
    with pytest.raises(DataError, match=r"\.blob \(2: .*a\.blob\), no ending \(1: .*part-00000\)"):
        built(tmp_path, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    declared = {"formats": [".blob=jsonl", "none=jsonl", ".txt=jsonl"]}
    info, documents = built(tmp_path, folder, **declared)
    assert documents == TEXTS * 5  # "README" has no ending either
    assert info.build.formats[".blob as jsonl (--format)"] == 2
    with pytest.raises(DataError, match=r"out: already exists"):
        built(tmp_path, folder, **declared)


def test_format_says_so_for_all(tmp_path):
    for name in ("a.txt", "b"):
        (tmp_path / name).write_bytes(LINES)
    _, documents = built(tmp_path, tmp_path / "a.txt", tmp_path / "b", formats=["jsonl"])
    assert documents == TEXTS * 2


def test_text_that_looks_like_json_lines_is_said_unless_format_says_text(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes(LINES)
    info, documents = built(tmp_path, tmp_path / "a.txt")
    assert len(documents) == 1
    assert info.build.counts == {"json_like": 1}
    assert "1 files were read as text, but look like JSON lines" in caplog.text
    assert f"the first is {tmp_path}/a.txt" in caplog.text
    caplog.clear()
    (tmp_path / "out").rename(tmp_path / "before")
    info, _ = built(tmp_path, tmp_path / "a.txt", formats=["text"])
    assert not info.build.counts
    assert not caplog.records
    assert (tmp_path / "before/train/tokens/c/0").read_bytes() == (
        tmp_path / "out/train/tokens/c/0"
    ).read_bytes()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json.gz"])
@pytest.mark.parametrize(
    ("head", "what"),
    [
        (gzip.compress(LINES), "gzip data"),
        (zstd.compress(LINES), "Zstandard data"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"PK\x03\x04", "a zip archive"),
    ],
)
def test_what_a_file_holds_is_not_what_its_name_says(tmp_path, name, head, what):
    (tmp_path / name).write_bytes(gzip.compress(head) if name.endswith(".gz") else head)
    with pytest.raises(DataError, match=rf"source .*{name}: read as \w+, but holds {what}"):
        built(tmp_path, tmp_path / name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["yaml"], r"--format yaml: give text, jsonl, parquet"),
        (["log=text"], r"--format log=text: .*--format \.log=text"),
        (["text", "jsonl"], r"--format jsonl and text: give one"),
        ([".a=text", ".a=jsonl"], r"--format \.a=jsonl: contradicts --format \.a=text"),
    ],
)
def test_bad_formats_are_refused(words, message):
    with pytest.raises(DataError, match=message):
        FileFormats.parse(words)


def test_every_ending_has_one_meaning():
    words = [word for table in (ENDINGS, NAMES) for text in table.values() for word in text.split()]
    assert len(words) == len(set(words))
    assert not set(UNSUPPORTED.split()) & set(words)
    assert kind_of("README") == kind_of("LICENSE.gz") == kind_of("x.PY") == "text"
    assert kind_of("part-0") is kind_of("a.csv") is None


def test_nested_missing_and_doubled_keys(tmp_path):
    lines = [{"content": {"text": "deep"}}, {"content.text": "flat"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert built(tmp_path, path, text_key="content.text")[1] == ["deep", "flat"]
    for line, reason in (
        ('{"content": "x"}', "no key 'content.text', only content"),
        ('{"content": {"text": "a", "text": "b"}}', "key 'text' occurs twice"),
        ('{"content": {"text": null}}', "'content.text' is NoneType, not a string"),
    ):
        path.write_text(line)
        with pytest.raises(DataError, match=rf"a\.jsonl:1: bad JSON line: {reason}"):
            build(tmp_path / "other", path, text_key="content.text")
