"""Bad documents are left out as far as --skip-bad allows, counted and named, whoever read them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.data.builder.test_store_builder import Decoding, documents_of, tree
from tests.data.conftest import build
from tttscale.cli import app
from tttscale.data import open_store, render_info
from tttscale.data.store.manifest import manifest_digest
from tttscale.errors import DataError

BAD = [
    ("{nonsense", "not JSON"),
    ('["a"]', "not JSON"),
    ('{"text": null}', "without a string for text"),
    ('{"text": 7}', "without a string for text"),
    ('{"body": "a"}', "without the text's key"),
    ('{"text": "\\ud800"}', "not Unicode"),
    ('{"text": "a", "text": "b"}', "of two texts"),
    ('{"text": "' + "x" * 5000 + '"}', "too long"),
]
SIZES = {"chunk_tokens": 4096, "shard_tokens": 1 << 20, "holdout_fraction": 0.1}
LONGEST = {"longest_bytes": 4000}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Several pieces; every 5000th line is bad, in turn for each reason."""
    path = tmp_path_factory.mktemp("bad") / "corpus.jsonl"
    with path.open("w") as file:
        for i in range(40_000):
            line = json.dumps({"text": f"line {i}: " + "abc " * 15})
            file.write((BAD[i // 5000][0] if i % 5000 == 4321 else line) + "\n")
    return path


def reasons():
    return {why: sum(w == why for _, w in BAD) for why in sorted({w for _, w in BAD})}


def test_left_out_counted_and_named_whoever_read_them(corpus, tmp_path, caplog):
    info = build(tmp_path / "a", corpus, skip_bad=8, **LONGEST, **SIZES)
    assert info.build.skipped == reasons()
    assert info.skipped_documents == len(BAD)
    assert info.build.documents_read == 40_000
    assert sum(split.documents for split in info.splits.values()) == 40_000 - len(BAD)
    assert len(info.build.skipped_examples) == 5
    assert info.build.skipped_examples[0].startswith(
        f"{corpus}:4322: bad JSON line: not JSON: expecting"
    )
    assert "2 documents that are not JSON are left out" in caplog.text
    assert f"{corpus}:9322: bad JSON line: expected an object, found list" in caplog.text
    assert "2 documents that are without a string for text" in render_info(info)
    build(tmp_path / "b", corpus, skip_bad=100, workers=2, **LONGEST, **SIZES)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    with pytest.raises(DataError, match=r"bad JSON line.*--skip-bad N"):
        build(tmp_path / "c", corpus, **LONGEST, **SIZES)


def test_one_more_than_allowed_is_refused_and_gone_on_from(corpus, tmp_path):
    """Each piece has fewer than are allowed; all of them have more."""
    with pytest.raises(
        DataError, match=r"--skip-bad 7: 8 documents are bad \(2 not JSON, 1 not Unicode"
    ):
        build(tmp_path / "a", corpus, skip_bad=7, **LONGEST, **SIZES)
    assert not (tmp_path / "a").exists()
    states = []
    build(tmp_path / "a", corpus, skip_bad=8, progress=states.append, **LONGEST, **SIZES)
    assert not any(state.documents for state in states)  # nothing was read again
    build(tmp_path / "b", corpus, skip_bad=8, **LONGEST, **SIZES)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_piece_with_too_many_says_how_many_and_which_flag(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + '{"text": null}\n' * 9)
    message = r"--skip-bad 3: 4 or more documents are bad .*a\.jsonl:5: .*larger --skip-bad"
    with pytest.raises(DataError, match=message):
        build(tmp_path / "out", path, skip_bad=3)


def test_rows_of_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", None, "", "four"]}), path)
    with pytest.raises(DataError, match=r"a\.parquet row 1: 'text' is NoneType"):
        build(tmp_path / "out", path)
    info = build(tmp_path / "out", path, skip_bad=1, holdout_fraction=0)
    assert documents_of(open_store(tmp_path / "out"), "train") == ["one", "four"]
    assert info.build.counts == {"empty": 1}
    assert info.build.skipped_examples == [f"source {path} row 1: 'text' is NoneType, not a string"]


def test_nested_columns_of_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"text": "one", "id": 1}, None, {"text": "three", "id": 3}]
    pq.write_table(pa.table({"content": rows}), path)
    info = build(tmp_path / "out", path, text_key="content.text", skip_bad=1, holdout_fraction=0)
    assert documents_of(open_store(tmp_path / "out"), "train") == ["one", "three"]
    assert info.skipped_documents == 1


def test_damaged_parquet_is_one_error_or_the_right_rows(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"text {i} of some words" for i in range(40)]
    table = pa.table({"text": texts})
    pq.write_table(table, path, write_page_checksum=True, row_group_size=20)
    good, refused = path.read_bytes(), []
    for place in range(0, len(good), 5):
        harmed = bytearray(good)
        harmed[place] ^= 0x10
        path.write_bytes(harmed)
        out = tmp_path / f"out{place}"
        try:
            build(out, path, holdout_fraction=0)
        except DataError as error:
            refused.append(str(error))
        else:
            assert documents_of(open_store(out), "train") == texts
    assert refused
    assert all("a.parquet" in message for message in refused)


def test_texts_that_are_not_utf8_count_among_the_bad(tmp_path):
    for name, data in (("a", b"\xff"), ("b", b"fine"), ("c", b"\xff\xfe")):
        (tmp_path / f"{name}.txt").write_bytes(data)
    with pytest.raises(DataError, match=r"--skip-bad 1: 2 or more .*2 not UTF-8.*c\.txt"):
        build(tmp_path / "out", tmp_path, tokenizer=Decoding(), skip_bad=1)
    first = build(tmp_path / "out", tmp_path, tokenizer=Decoding(), skip_bad=2)
    assert first.build.skipped == {"not UTF-8": 2}
    (tmp_path / "more").mkdir()
    again = build(
        tmp_path / "more/out",
        *sorted(tmp_path.glob("*.txt")),
        tokenizer=Decoding(),
        skip_undecodable=True,
    )
    assert again.build.skipped == first.build.skipped


def test_what_is_empty_is_counted(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").touch()
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n\n{"text": "two"}')
    info = build(tmp_path / "out", *sorted(tmp_path.iterdir()))
    assert info.build.counts == {"empty": 2}
    assert info.build.documents_read == 4
    assert "2 documents hold no text and are left out; the first is" in caplog.text
    assert "noticed     2 documents hold no text" in render_info(info)


def test_the_command(tmp_path):
    path = tmp_path / "a.blob"
    path.write_text('{"text": "fine"}\nnonsense\n{"text": "as well"}\n')
    words = ["data", "build", str(tmp_path / "out"), str(path)]
    assert isinstance(CliRunner().invoke(app, words).exception, DataError)
    done = CliRunner().invoke(app, [*words, "--format", "jsonl", "--skip-bad", "1"])
    assert done.exit_code == 0
    assert "2 documents, 1 skipped" in done.stdout
    shown = CliRunner().invoke(app, ["data", "info", str(tmp_path / "out")]).stdout
    assert "skipped     1 documents that are not JSON" in shown
    assert "a.blob:2: bad JSON line: not JSON: expecting value" in shown


def test_stores_of_older_versions_say_nothing_of_their_build_and_are_read(tmp_path):
    import zarr

    text = tmp_path / "a.txt"
    text.write_text("as ever")
    build(tmp_path / "out", text, holdout_fraction=0)
    group = zarr.open_group(tmp_path / "out", mode="r+")
    fields = {k: v for k, v in group.attrs.asdict().items() if k not in ("build", "digest")}
    fields |= {"skipped_documents": 3}
    group.attrs.put(fields | {"digest": manifest_digest(fields)})
    store = open_store(tmp_path / "out")
    assert documents_of(store, "train") == ["as ever"]
    assert store.info.build is None
    assert "skipped     3 documents that are not UTF-8" in render_info(store.info)
