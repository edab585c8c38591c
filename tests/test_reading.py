"""One reader of JSON: whatever it is given, a value or the one error, in bounded memory and time."""

import json
import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile import BAD_JSON, no_files
from tttscale.errors import CheckpointError, DataError
from tttscale.reading import parse_json, read_bytes, read_json


@pytest.mark.parametrize("data", BAD_JSON.values(), ids=BAD_JSON)
def test_what_is_no_json_is_refused_in_a_few_words(data, tmp_path):
    with pytest.raises(ValueError, match=r"^\S.{0,200}$") as caught:
        parse_json(data)
    assert str(caught.value).isprintable()
    (tmp_path / "file.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/file\.json: .*\. Do this$"):
        read_json(tmp_path / "file.json", error=CheckpointError, advice="Do this")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (
            b'{"a": [1.5, -2, true, null, "\\u00e9\\ud83d\\ude00"]}',
            {"a": [1.5, -2, True, None, "é😀"]},
        ),
        (b"18446744073709551615", 2**64 - 1),
        (b"[" * 64 + b"]" * 64, None),
        (b'"[[[[' + b"[" * 1000 + b'"', "[[[[" + "[" * 1000),
    ],
)
def test_values(data, value):
    found = parse_json(data)
    assert found == value or value is None


def test_numbers_that_json_does_not_know_only_where_asked_for():
    found = parse_json(b"[NaN, Infinity, -Infinity, 1e400]", non_finite=True)
    assert [str(x) for x in found] == ["nan", "inf", "-inf", "inf"]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    for name, path in no_files(tmp_path / "strange").items():
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: .*Do this") as caught:
            read_json(path, error=DataError, advice="Do this")
        kind = name.split()[-1]
        assert kind not in ("folder", "pipe", "socket", "device") or f"a {kind}" in str(
            caught.value
        )


def test_a_file_larger_than_allowed_is_not_taken_in(tmp_path):
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(OSError, match="more than the 1,000 bytes"):
        read_bytes(path, 1000)
    path.write_bytes(b"x" * 1000)
    assert read_bytes(path, 1000) == b"x" * 1000


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    from tttscale import files

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "somewhere")

    (tmp_path / "a").write_text("{}")
    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(DataError, match=rf"{tmp_path}/a: Permission denied\. Do this"):
        read_json(tmp_path / "a", error=DataError, advice="Do this")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=9)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)  # fmt: skip


@given(VALUES, st.integers(0, 2**32))
@example({"a": "\\"}, 0)
def test_there_and_back_and_with_harm(value, seed):
    data = bytearray(json.dumps(value).encode())
    assert parse_json(bytes(data)) == value
    random_ = random.Random(seed)
    for _ in range(5):
        at = random_.randrange(len(data))
        data[at : at + random_.randrange(3)] = random_.randbytes(random_.randrange(3))
        if not data:
            break
        try:
            harmed = parse_json(bytes(data))
        except ValueError:
            continue
        json.dumps(harmed, allow_nan=False, ensure_ascii=False).encode()  # all of it can be written
