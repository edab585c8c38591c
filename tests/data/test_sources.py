import json
from pathlib import Path

import pytest

from tttscale.data import iterate_documents
from tttscale.errors import DataError


def read(*sources, **options):
    return [(d.origin, d.data.decode()) for d in iterate_documents([*map(str, sources)], **options)]


def test_folders_are_walked_in_sorted_order_without_hidden_names(tmp_path):
    for name in ("b/2.py", "b/10.py", "a.py", "c.txt", ".git/x.py", "b/.hidden.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "empty.py").touch()
    assert [text for _, text in read(tmp_path)] == ["a.py", "c.txt", "b/10.py", "b/2.py"]
    assert [text for _, text in read(tmp_path, suffixes=[".py"])] == ["a.py", "b/10.py", "b/2.py"]


def test_json_lines_name_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": ""}\n{"text": "zwölf", "id": 3}\n')
    assert read(path) == [(f"{path}:1", "one"), (f"{path}:4", "zwölf")]
    path.write_text('{"body": "one"}\n')
    assert read(path, text_key="body") == [(f"{path}:1", "one")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{nonsense", "Expecting property name"),
        (b'["a"]', "expected an object, found list"),
        (b'{"body": "a", "id": 1}', "no key 'text', only body, id"),
        (b'{"text": 7}', "'text' is int, not a string"),
        (b'{"text": "\\ud800"}', "surrogates not allowed"),
        (b'{"text": "\xff"}', "invalid start byte"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, reason):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json.dumps({"text": "fine"}).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=rf"bad\.jsonl:2: .*{reason}.*--text-key"):
        read(path)


def test_missing_empty_and_unsupported_sources(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"found no file whose name ends in \.py.*--suffix"):
        read(tmp_path, suffixes=[".py"])
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: \.parquet files are not supported"):
        read(tmp_path)


def test_excluded_names_are_left_out(tmp_path):
    for folder in ("keep", "site-packages"):
        (tmp_path / folder / "site-packages").mkdir(parents=True)
        (tmp_path / folder / "a.py").write_text("a")
        (tmp_path / folder / "site-packages" / "b.py").write_text("b")
    found = list(iterate_documents([str(tmp_path)], exclude=["site-packages"]))
    assert [Path(document.origin).relative_to(tmp_path).as_posix() for document in found] == [
        "keep/a.py"
    ]
