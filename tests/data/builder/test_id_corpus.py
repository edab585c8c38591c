"""Stores of ready token ids: equal to those that the texts give."""

from functools import partial

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.data.conftest import SMALL
from tests.data.ids.writers import write_megatron, write_nanoset, write_npy
from tttscale.data import (
    BuildOptions,
    ImportOptions,
    Windows,
    build_store,
    import_ids,
    open_store,
    render_info,
)
from tttscale.data.builder.store_builder import _Builder
from tttscale.data.store.verify import verify_store
from tttscale.errors import DataError

FORMATS = {
    "npy": ("a.npy", write_npy),
    "npy of int32": ("a.npy", partial(write_npy, dtype="int32")),
    "megatron": ("a", write_megatron),
    "megatron of sentences": ("a", partial(write_megatron, dtype="int32", sentences=3)),
    "fairseq": ("a", partial(write_megatron, fairseq=True)),
    "nanoset": ("a.ds", write_nanoset),
    "nanoset without an index": ("a.ds", partial(write_nanoset, index=False)),
    "nanoset of uint32": ("a.ds", partial(write_nanoset, dtype="uint32")),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["a document of text, größer and größer"] * 5, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return str(path)


def write(tmp_path, name, documents):
    file, writer = FORMATS[name]
    return writer(tmp_path / file, documents)


def documents_of(store, split="train"):
    opened = open_store(store).split(split)
    ids = opened.read(0, opened.num_tokens)
    return [one.tolist() for one in np.split(ids, opened.document_starts.astype(int)[1:])]


def imported(out, *sources, **options):
    own = {name: options.pop(name) for name in ("workers", "ranks") if name in options}
    return import_ids(out, [*map(str, sources)], ImportOptions(**SMALL | options), **own)


@pytest.fixture
def built(tmp_path, corpus, tokenizer):
    options = BuildOptions(tokenizer=tokenizer, holdout_fraction=0, **SMALL)
    build_store(tmp_path / "built", [str(corpus)], options)
    return tmp_path / "built"


@pytest.mark.parametrize("name", FORMATS)
def test_equal_to_the_store_of_the_texts(tmp_path, built, tokenizer, name):
    """Tokens, documents, windows, and even the files of the arrays."""
    documents = documents_of(built)
    source = write(tmp_path, name, documents)
    out = tmp_path / "out"
    info = imported(out, source, tokenizer=tokenizer, holdout_fraction=0)
    assert documents_of(out) == documents
    ours, theirs = open_store(out), open_store(built)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.tokenizer().digest == theirs.tokenizer().digest
    for mode in ("ignore", "reset", "whole"):
        a, b = (Windows(s.split("train"), 64, 3, 4, mode) for s in (ours, theirs))
        assert a.count == b.count > 3
        for index in range(a.count):
            left, right = (w.window(index).chunk(0, 64) for w in (a, b))
            assert left.starts == right.starts
            assert np.array_equal(left.ids, right.ids)
            assert np.array_equal(left.labels, right.labels)
    assert not verify_store(out, workers=1).damages
    assert info.build is not None
    assert info.build.counts == {}
    (file,) = info.build.id_files
    assert file.ids == sum(map(len, documents))
    assert str(source).removesuffix(".idx") in file.path
    assert file.dtype in render_info(info)
    assert "id_files" not in theirs.info.attributes()["build"]


@pytest.mark.parametrize("name", ["npy", "megatron", "nanoset"])
def test_held_out_documents(tmp_path, built, tokenizer, name):
    documents = documents_of(built)
    source = write(tmp_path, name, documents * 2)
    info = imported(tmp_path / "out", source, tokenizer=tokenizer, holdout_fraction=0.2)
    sides = [documents_of(tmp_path / "out", split) for split in ("train", "heldout")]
    assert 4 <= len(sides[1]) <= 40
    assert len(sides[0]) + len(sides[1]) == 80
    assert {tuple(d) for d in sides[0]} & {tuple(d) for d in sides[1]} == set()
    assert info.splits["heldout"].documents == len(sides[1])


def test_without_the_tokenizer(tmp_path):
    documents = [[5, 6, 2], [7, 2]]
    source = write_npy(tmp_path / "a.npy", documents)
    special = {"eos": "2"}
    info = imported(tmp_path / "out", source, vocab_size=50, special=special, holdout_fraction=0)
    assert documents_of(tmp_path / "out") == documents
    assert (info.tokenizer.eos_id, info.tokenizer.vocab_size) == (2, 50)
    store = open_store(tmp_path / "out")
    assert not store.names_tokenizer
    with pytest.raises(DataError, match="imported without their tokenizer"):
        store.tokenizer()
    assert "which one is not known" in render_info(info)
    for wrong, said in [
        ({"eos": "</s>"}, "--eos </s>: with --vocab-size give the id"),
        ({"eos": "50"}, "--eos 50: not below --vocab-size 50"),
    ]:
        with pytest.raises(DataError, match=said):
            imported(tmp_path / "wrong", source, vocab_size=50, special=wrong)


@pytest.mark.parametrize("options", [{}, {"tokenizer": "bytes", "vocab_size": 259}])
def test_either_a_tokenizer_or_a_size(tmp_path, options):
    with pytest.raises(DataError, match="--tokenizer, --vocab-size: give one of them"):
        imported(tmp_path / "out", tmp_path / "a.npy", **options)


def test_no_tokens(tmp_path):
    source = write_megatron(tmp_path / "a", [[], []])
    with pytest.raises(DataError, match=r"no token in them \(2 documents of ready ids have no"):
        imported(tmp_path / "out", source, vocab_size=50)
    assert not (tmp_path / "out").exists()


def test_workers_and_interruptions_change_no_byte(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    documents = [[*rng.integers(3, 50, rng.integers(1, 30)).tolist(), 2] for _ in range(300)]
    source = write_npy(tmp_path / "a.npy", documents)
    monkeypatch.setattr("tttscale.data.builder.source_slices.SMALLEST_BYTES", 512)
    options = dict(vocab_size=50, special={"eos": "2"}, holdout_fraction=0.1)
    whole = imported(tmp_path / "whole", source, **options)
    with monkeypatch.context() as patch:
        patch.setattr(_Builder, "publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            imported(tmp_path / "out", source, **options)
    runs = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.building/runs").iterdir()
    }
    assert len(runs) > 20
    read = []
    with monkeypatch.context() as patch:
        patch.setattr("tttscale.data.builder.id_corpus.copy_slice", lambda *_: read.append(1))
        again = imported(tmp_path / "out", source, workers=1, **options)
    assert read == [], "the slices that are done are not copied again"
    assert again == whole
    assert imported(tmp_path / "two", source, workers=2, **options) == whole


def test_a_folder_of_files(tmp_path):
    folder = tmp_path / "ids"
    folder.mkdir()
    write_megatron(folder / "b", [[7, 2]])
    write_npy(folder / "a.npy", [[5, 6, 2]])
    (folder / "notes.md").write_text("not ids")
    options = dict(vocab_size=50, special={"eos": "2"}, holdout_fraction=0)
    with pytest.raises(DataError, match=r"notes\.md"):
        imported(tmp_path / "out", folder, **options)
    imported(tmp_path / "out", folder, exclude=["notes.md"], **options)
    assert documents_of(tmp_path / "out") == [[5, 6, 2], [7, 2]]
    imported(tmp_path / "prefix", folder / "b", **options)
    assert documents_of(tmp_path / "prefix") == [[7, 2]]


def test_files_that_are_named_twice(tmp_path, caplog):
    folder = tmp_path / "ids"
    folder.mkdir()
    index = write_megatron(folder / "b", [[7, 2]])
    options = dict(vocab_size=50, special={"eos": "2"}, holdout_fraction=0)
    imported(tmp_path / "once", index, index.with_suffix(".bin"), **options)
    assert "more than once" not in caplog.text
    imported(tmp_path / "twice", folder, folder / "b", **options)
    assert (
        f"1 files are named more than once, and their documents are stored as often; the first is {folder}"
        in (caplog.text)
    )
    assert documents_of(tmp_path / "twice") == [[7, 2], [7, 2]]
