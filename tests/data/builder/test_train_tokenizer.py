import random

import pytest

from tttscale.data import load_tokenizer
from tttscale.data.builder.train_tokenizer import _sample, train_tokenizer
from tttscale.errors import DataError

SMALLEST = 258
WORDS = ["abide", "bring", "carry", "dwell", "enter", "fetch", "guard", "honor", "index", "judge"]


@pytest.fixture
def book(tmp_path):
    """One document of a million bytes."""
    chooser = random.Random(0)
    path = tmp_path / "book.txt"
    path.write_text(" ".join(chooser.choice(WORDS) for _ in range(170_000)))
    return path


def test_a_sample_is_drawn_of_a_document_that_is_longer_than_it(book, tmp_path):
    out = tmp_path / "out.json"
    assert train_tokenizer(out, [str(book)], vocab_size=400, sample_bytes=1 << 16) > SMALLEST
    for word in WORDS:
        assert len(load_tokenizer(str(out)).encode(f" {word}")) == 1


def test_a_sample_is_about_as_large_as_asked_and_always_the_same(book):
    size = book.stat().st_size
    drawn = list(_sample([book], "text", size // 4))
    assert sum(map(len, drawn)) == pytest.approx(size / 4, rel=0.3)
    assert drawn == list(_sample([book], "text", size // 4))
    assert all(part in book.read_text() for part in drawn)
    assert list(_sample([book], "text", size)) == [book.read_text()]  # nothing is cut for nothing


def test_documents_that_are_not_utf8_are_left_out_with_a_word(tmp_path, caplog):
    (tmp_path / "good.txt").write_text("größer")
    (tmp_path / "latin.txt").write_bytes("kürzer".encode("latin-1"))
    files = [tmp_path / "good.txt", tmp_path / "latin.txt"]
    assert list(_sample(files, "text", 1000)) == ["größer"]
    assert f"1 documents are not UTF-8 and are left out, the first is {files[1]}." in caplog.text


def test_bad_lines_are_left_out_as_far_as_they_may_be(tmp_path, caplog):
    lines = tmp_path / "a.blob"
    lines.write_text('{"text": "abide"}\n{"text": null}\n{"text": "bring"}\n')
    options = {"vocab_size": 300, "formats": ["jsonl"]}
    with pytest.raises(DataError, match=r"a\.blob:2: bad JSON line.*--skip-bad"):
        train_tokenizer(tmp_path / "out.json", [str(lines)], **options)
    assert train_tokenizer(tmp_path / "out.json", [str(lines)], skip_bad=1, **options) > 258
    assert f"1 bad documents are left out, the first is {lines}:2: bad JSON line" in caplog.text


def test_nothing_to_train_on_is_refused(book, tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("kürzer".encode("latin-1"))
    for source, sample in ((book, 1), (latin, 1000)):
        with pytest.raises(
            DataError, match=rf"--sample {sample}: the sample of .* \d+ bytes is empty"
        ):
            train_tokenizer(tmp_path / "out.json", [str(source)], sample_bytes=sample)
        assert not list(tmp_path.glob("out*"))


def test_the_folder_is_made_and_tried_before_the_work(book, tmp_path, monkeypatch):
    out = tmp_path / "new" / "stores" / "code.json"
    assert train_tokenizer(out, [str(book)], vocab_size=300, sample_bytes=1 << 16) == 300
    assert [path.name for path in out.parent.iterdir()] == ["code.json"]
    (tmp_path / "file").touch()
    monkeypatch.setattr("tttscale.data.builder.train_tokenizer._sample", pytest.fail)
    wrong = tmp_path / "file" / "code.json"
    with pytest.raises(DataError, match=rf"OUT {wrong}: .*File exists.*name another file"):
        train_tokenizer(wrong, [str(book)])


@pytest.mark.parametrize("count", [1, 4])
def test_sources_without_text_are_refused_and_leave_nothing(tmp_path, count):
    sources = [tmp_path / f"{i}.txt" for i in range(count)]
    for source in sources:
        source.touch()
    with pytest.raises(DataError, match=r"SOURCES .*/0\.txt.*: no text in them\. Name files"):
        train_tokenizer(tmp_path / "new/out.json", [str(path) for path in sources], vocab_size=300)
    assert sorted(tmp_path.iterdir()) == sources
