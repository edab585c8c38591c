"""Documents out of JSON lines, wherever the file is cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.builder.test_read_documents import read
from tttscale.errors import DataError


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
