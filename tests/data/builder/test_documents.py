"""Documents, and what is said of a line, row or file that cannot be one."""

import gzip

import pytest

from tttscale.data.builder.documents import (
    NO_STRING,
    NOT_JSON,
    NOT_UNICODE,
    TOO_LONG,
    UNDECODABLE,
    BadDocument,
    FileRange,
    UnfitError,
    encoded,
    line_number,
)
from tttscale.errors import DataError


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_are_counted_in_what_is_inside(tmp_path, name):
    text = b"one\n\nthree\n" + b"x" * (3 << 20) + b"\nfive"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    for at, number in ((0, 1), (4, 2), (5, 3), (11, 4), (text.rindex(b"five"), 5)):
        assert line_number(str(path), at) == number


@pytest.mark.parametrize(
    ("kind", "reason", "place", "remedy"),
    [
        ("jsonl", NOT_JSON, "{path}:2: bad JSON line", "Correct the line, .*--text-key, or .*--form"),
        ("parquet", NO_STRING, "source {path} row 4", "Correct the row, leave such ones out with --s"),
        ("jsonl", TOO_LONG, "{path}:2: bad JSON line", "--skip-bad N, or allow more with --longest-d"),
        ("text", UNDECODABLE, "source {path}", "--skip-undecodable or --suffix, or .*--tokenizer by"),
    ],
)  # fmt: skip
def test_an_error_names_the_place_and_what_to_do(tmp_path, kind, reason, place, remedy):
    path = tmp_path / "a.any"
    path.write_bytes(b"one\ntwo\n")
    place = place.format(path=path)
    with pytest.raises(DataError, match=rf"^{place}: it is bad\. .*{remedy}"):
        BadDocument(str(path), 4, kind, reason, "it is bad").refuse()


def test_only_a_string_of_unicode_is_text():
    assert encoded("größer", "text") == "größer".encode()
    with pytest.raises(UnfitError, match="'text' is NoneType, not a string") as caught:
        encoded(None, "text")
    assert caught.value.reason == NO_STRING
    with pytest.raises(UnfitError, match=r"'a\.b' is not Unicode \(surrogates") as caught:
        encoded("\ud800", "a.b")
    assert caught.value.reason == NOT_UNICODE


@pytest.mark.parametrize(
    ("path", "declared", "kind"),
    [("a.jsonl", None, "jsonl"), ("a.jsonl", "text", "text"), ("a.rs", None, "text")],
)
def test_a_file_is_read_as_declared_or_as_its_name_says(path, declared, kind):
    assert FileRange(path, 0, 1, 1, declared).kind == kind
