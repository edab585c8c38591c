import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tttscale.data import ByteTokenizer, TokenStore, render_info
from tttscale.data.build import is_held_out
from tttscale.data.staging import staging
from tttscale.errors import DataError

from .conftest import build


def documents_of(store: TokenStore, name: str) -> list[str]:
    split = store.split(name)
    bounds = [*split.document_starts.tolist(), split.num_tokens]
    tokenizer = ByteTokenizer()
    return [tokenizer.decode(split.read(a, b)) for a, b in pairwise(bounds)]


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_every_document_is_in_one_split_in_order(tmp_path, corpus, texts):
    info = build(tmp_path / "out", corpus, holdout_fraction=0.2)
    store = TokenStore.open(tmp_path / "out")
    held = [is_held_out(i, 0.2, 0) for i in range(len(texts))]
    assert 2 <= sum(held) <= 20
    assert documents_of(store, "heldout") == [t for t, h in zip(texts, held, strict=True) if h]
    assert documents_of(store, "train") == [t for t, h in zip(texts, held, strict=True) if not h]
    assert store.info == info
    sizes = info.splits["train"]
    assert sizes.tokens == sizes.text_bytes + 2 * sizes.documents  # bos and eos
    assert store.split("train").read(0, 1)[0] == 256


def test_python_sources(tmp_path):
    import json as package

    folder = Path(package.__file__).parent
    info = build(tmp_path / "out", folder, suffixes=[".py"], chunk_tokens=4096, shard_tokens=8192)
    files = sorted(folder.glob("*.py"))
    store = TokenStore.open(tmp_path / "out")
    assert sum(s.text_bytes for s in info.splits.values()) == sum(p.stat().st_size for p in files)
    expected = [p.read_text() for i, p in enumerate(files) if not is_held_out(i, 0.01, 0)]
    assert documents_of(store, "train") == expected
    assert "heldout" in render_info(info)
    assert info.fingerprint in render_info(info)


def test_the_same_input_gives_the_same_bytes(tmp_path, corpus):
    first = build(tmp_path / "a", corpus)
    second = build(tmp_path / "b", corpus)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    corpus.write_text(corpus.read_text().replace("document 3", "Document 3"))
    assert build(tmp_path / "c", corpus).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "size", [1, 62, 254, 255, 510, 1000]
)  # around whole shards; 1000 has one of zeros
def test_sizes_around_shard_borders(tmp_path, size):
    text = tmp_path / "a.txt"
    text.write_bytes(bytes(range(size % 256)) + bytes(size - size % 256))
    build(tmp_path / "out", text)
    store = TokenStore.open(tmp_path / "out")
    assert store.split("train").read(0, size + 2)[1:-1].tobytes() == (
        np.frombuffer(text.read_bytes(), np.uint8).astype(np.uint16).tobytes()
    )
    assert store.split("heldout").num_tokens == 0
    assert len(store.split("heldout").document_starts) == 0


def test_bytes_take_any_file_and_others_may_skip(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "texts/b.txt").write_text("fine")
    assert build(tmp_path / "a", tmp_path / "texts").splits["heldout"].documents == 1
    codec = Decoding()
    with pytest.raises(DataError, match=r"a\.txt: not UTF-8 .*--skip-undecodable"):
        build(tmp_path / "b", tmp_path / "texts", tokenizer=codec)
    info = build(tmp_path / "b", tmp_path / "texts", tokenizer=codec, skip_undecodable=True)
    assert (info.skipped_documents, info.splits["train"].documents) == (1, 1)
    assert "1 documents that are not UTF-8" in render_info(info)


class Decoding(ByteTokenizer):
    """Wants UTF-8, and adds `shift` to every id."""

    vocab_size = 70_000
    shift = 0

    def encode(self, text):
        assert isinstance(text, bytes)
        return super().encode(text.decode()).astype(np.int64) + self.shift


def test_wide_vocabularies_and_ids_outside(tmp_path, corpus):
    codec = Decoding()
    codec.shift = 69_000
    build(tmp_path / "wide", corpus, tokenizer=codec)
    tokens = TokenStore.open(tmp_path / "wide").split("train").read(1, 3)
    assert tokens.dtype == np.uint32
    assert tokens[0] == ord("d") + 69_000
    for shift, found in ((-200, -100), (70_000, 70_100)):
        codec.shift = shift
        with pytest.raises(DataError, match=rf"jsonl:1: .* gave id {found} at token 0, outside"):
            build(tmp_path / "out", corpus, tokenizer=codec)
        assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout_fraction": 1.0}, r"--heldout 1\.0"),
        ({"chunk_tokens": 100}, r"shard_tokens 256: not a positive multiple"),
        ({"tokenizer": "none"}, r"--tokenizer none"),
        ({"text_key": "body"}, r"corpus\.jsonl:1: .*no key 'body'"),
    ],
)
def test_bad_requests_leave_nothing(tmp_path, corpus, options, message):
    with pytest.raises(DataError, match=message):
        build(tmp_path / "out", corpus, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_an_existing_out_is_refused(store, corpus):
    before = tree(store)
    with pytest.raises(DataError, match=r"already exists"):
        build(store, corpus)
    assert tree(store) == before


def test_sources_without_text_are_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"no text in them"):
        build(tmp_path / "out", tmp_path / "a.txt")
    assert not list(tmp_path.glob("out*"))


def test_two_builders_do_not_share_a_folder(tmp_path, corpus):
    with staging(tmp_path / "out") as building:
        (building / "mine").touch()
        with pytest.raises(DataError, match=r"another process is building it"):
            build(tmp_path / "out", corpus)
        assert (building / "mine").exists()


KILLED = """
import os, signal, sys
from tttscale.data import build_store
def progress(documents, text_bytes):
    if documents == 30:
        os.kill(os.getpid(), signal.SIGKILL)
build_store(sys.argv[1], [sys.argv[2]], chunk_tokens=64, shard_tokens=256, progress=progress)
"""


def test_a_killed_build_leaves_no_store_and_no_obstacle(tmp_path, corpus):
    out = tmp_path / "out"
    run = subprocess.run([sys.executable, "-c", KILLED, out, corpus], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(DataError, match=r"incomplete, its build was interrupted"):
        TokenStore.open(tmp_path / "out.building")
    build(out, corpus)
    build(tmp_path / "fresh", corpus)
    assert tree(out) == tree(tmp_path / "fresh")
    assert not (tmp_path / "out.building").exists()
