import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import build
from tttscale.data import BuildOptions, ByteTokenizer, build_store, open_store, render_info
from tttscale.data.builder.store_builder import _Builder
from tttscale.data.builder.store_plan import Holdout
from tttscale.data.builder.tokenized import content_hash
from tttscale.errors import DataError


def documents_of(store, name: str) -> list[str]:
    split = store.split(name)
    bounds = [*split.document_starts.tolist(), split.num_tokens]
    tokenizer = ByteTokenizer()
    return [tokenizer.decode(split.read(a, b)) for a, b in pairwise(bounds)]


def held_out(texts: list[str], fraction: float) -> list[bool]:
    table = np.array([(1, 1, content_hash(text.encode())) for text in texts], np.uint64)
    return Holdout.choose(fraction, 0, [table]).mask(table, "heldout").tolist()


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_every_document_is_in_one_split_in_order(tmp_path, corpus, texts):
    info = build(tmp_path / "out", corpus, holdout_fraction=0.2)
    store = open_store(tmp_path / "out")
    held = held_out(texts, 0.2)
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
    store = open_store(tmp_path / "out")
    assert sum(s.text_bytes for s in info.splits.values()) == sum(p.stat().st_size for p in files)
    texts = [path.read_text() for path in files]
    held = held_out(texts, 0.01)
    expected = [text for text, h in zip(texts, held, strict=True) if not h]
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
    assert "held out    1 of 2 documents, 50.00% (1.00% set, seed 0)" in render_info(
        build(tmp_path / "c", tmp_path / "texts")
    )


def test_a_build_that_skips_everything_says_so(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"--skip-undecodable left out all 2 documents.* bytes\."):
        build(tmp_path / "out", tmp_path, tokenizer=Decoding(), skip_undecodable=True)
    assert not list(tmp_path.glob("out*"))


def test_what_is_no_text_is_mentioned(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("größer \x01 \u202e " * 9)
    build(tmp_path / "a", tmp_path / "a.txt")
    assert not caplog.records
    for name in ("b.png", "c.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    files = sorted(tmp_path.glob("*.*"))
    with pytest.raises(
        DataError,
        match=r"how to read these files is not known: \.png \(2: .*b\.png\).*--format \.png=",
    ):
        build(tmp_path / "b", *files)
    info = build(tmp_path / "b", *files, formats=[".png=text"])
    assert sum(split.documents for split in info.splits.values()) == 3
    assert "2 documents hold NUL bytes" in caplog.text
    assert f"the first is {tmp_path}/b.png." in caplog.text


class Decoding(ByteTokenizer):
    """Wants UTF-8, and adds `shift` to every id."""

    vocab_size = 70_000
    shift = 0

    def encode(self, text):
        assert isinstance(text, bytes)
        return super().encode(text.decode()).astype(np.int64) + self.shift

    def encode_batch(self, texts):
        return [self.encode(t) if t.isascii() or t.find(b"\xff") < 0 else None for t in texts]


def test_wide_vocabularies_and_ids_outside(tmp_path, corpus):
    codec = Decoding()
    codec.shift = 69_000
    build(tmp_path / "wide", corpus, tokenizer=codec)
    tokens = open_store(tmp_path / "wide").split("train").read(1, 3)
    assert tokens.dtype == np.uint32
    assert tokens[0] == ord("d") + 69_000
    for shift, found in ((-200, -100), (70_000, 70_100)):
        codec.shift = shift
        with pytest.raises(DataError, match=rf"at byte 0: .* gave id {found} at token 0, outside"):
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


def test_sources_without_text_are_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"no text in them"):
        build(tmp_path / "out", tmp_path / "a.txt")
    assert not list(tmp_path.glob("out*"))


def write_lines(path: Path, count: int) -> None:
    """About 70 bytes a line; enough of them make several pieces of a megabyte."""
    lines = (json.dumps({"text": f"line {i}: " + "abc " * (i % 20)}) for i in range(count))
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A corpus of several pieces, and its store."""
    folder = tmp_path_factory.mktemp("large")
    write_lines(folder / "corpus.jsonl", 60_000)
    build(folder / "store", folder / "corpus.jsonl", **LARGE)
    build_store(
        folder / "again", [str(folder / "corpus.jsonl")], BuildOptions(holdout_fraction=0.1)
    )
    return folder


LARGE = {"chunk_tokens": 4096, "shard_tokens": 1 << 20, "holdout_fraction": 0.1}


def test_workers_do_not_change_a_byte(large, tmp_path):
    seen = []
    build(tmp_path / "out", large / "corpus.jsonl", workers=2, progress=seen.append, **LARGE)
    assert tree(tmp_path / "out") == tree(large / "store")
    assert seen[-1].phase == "write"
    info = open_store(tmp_path / "out").info
    counted = [state for state in seen if state.phase == "tokenize"][-1]
    assert counted.tokens == sum(split.tokens for split in info.splits.values())
    assert counted.documents == 60_000


KILLED = """
import os, signal, sys
from tttscale.data import BuildOptions, build_store
out, corpus, phase, count = sys.argv[1:]
seen = 0
def progress(state):
    global seen
    seen += state.phase == phase
    if seen > int(count):
        os.kill(os.getpid(), signal.SIGKILL)
options = BuildOptions(chunk_tokens=4096, shard_tokens=1 << 20, holdout_fraction=0.1)
build_store(out, [corpus], options, progress=progress)
"""


@pytest.mark.parametrize(("phase", "count"), [("tokenize", 0), ("tokenize", 2), ("write", 3)])
def test_a_killed_build_is_gone_on_with(large, tmp_path, phase, count):
    out, corpus = tmp_path / "out", large / "corpus.jsonl"
    command = [sys.executable, "-c", KILLED, out, corpus, phase, str(count)]
    run = subprocess.run(command, check=False)
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    for store in (tmp_path / "out.building").glob("store-*"):
        with pytest.raises(DataError, match=r"incomplete, its build was interrupted"):
            open_store(store)
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.building/runs").iterdir()}
    assert len([path for path in runs if path.suffix == ".npz"]) >= min(count, 1)
    states = []
    build(out, corpus, progress=states.append, **LARGE)
    if phase == "write":  # nothing was tokenized again
        assert not any(state.documents for state in states)
    assert tree(out) == tree(large / "store")
    assert not (tmp_path / "out.building").exists()


@pytest.mark.parametrize("source", [".", "**/*"])
def test_a_build_inside_its_source_does_not_read_itself(tmp_path, monkeypatch, source):
    for name in ("a.txt", "b.txt", "deep/store.building/c.txt"):  # the last one is not the build's
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    publish = _Builder.publish
    monkeypatch.setattr("tttscale.data.builder.store_builder._Builder.publish", lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            build(Path("store"), Path(source), holdout_fraction=0)
    monkeypatch.setattr("tttscale.data.builder.store_builder._Builder.publish", publish)
    resumed = build(Path("store"), Path(source), holdout_fraction=0)
    assert resumed.splits["train"].documents == 3
    shutil.rmtree("store")
    assert build(Path("store"), Path(source), holdout_fraction=0) == resumed


def test_changed_sources_are_read_anew(large, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes((large / "corpus.jsonl").read_bytes() + b'\n{"text": 7}')
    with pytest.raises(DataError, match=r"corpus\.jsonl:60001: bad JSON line"):
        build(tmp_path / "out", corpus, **LARGE)
    assert any((tmp_path / "out.building/runs").glob("*.npz"))  # work that was done is kept
    corpus.write_bytes((large / "corpus.jsonl").read_bytes())
    build(tmp_path / "out", corpus, **LARGE)
    stores = [open_store(path).info for path in (tmp_path / "out", large / "store")]
    assert stores[0].files == stores[1].files


def test_a_dead_worker_is_reported(large, tmp_path, monkeypatch):
    monkeypatch.setattr("tttscale.data.builder.store_builder.tokenize_task", die)
    with pytest.raises(DataError, match=r"a worker process died.*--workers 2"):
        build(tmp_path / "out", large / "corpus.jsonl", workers=2, **LARGE)
    assert not list(tmp_path.iterdir())


FULL = """
import resource, sys
from tttscale.data import BuildOptions, build_store
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    options = BuildOptions(chunk_tokens=4096, shard_tokens=1 << 20, holdout_fraction=0.1)
    build_store(sys.argv[1], [sys.argv[2]], options, workers=int(sys.argv[4]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("most_bytes", "workers"), [(1_000_000, 1), (1_000_000, 2), (4096, 1)])
def test_a_full_disk_is_said_and_gone_on_from(large, tmp_path, most_bytes, workers):
    """The limit on a file's size stands in for the disk's."""
    out, corpus = tmp_path / "out", large / "corpus.jsonl"
    command = [sys.executable, "-c", FULL, out, corpus, str(most_bytes), str(workers)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    assert re.match(r"DiskError building in .*out\.building: .*File too large.*rerun", done.stdout)
    assert not out.exists()
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    build(out, corpus, **LARGE)
    assert tree(out) == tree(large / "store")


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


MPIRUN = shutil.which(
    "mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)
MPI = [MPIRUN, "--allow-run-as-root", "--oversubscribe", "-n", "3"]


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun; the extra `dev` brings one")
@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_under_mpirun_do_not_change_a_byte(large, tmp_path, workers):
    done = mpi_build(tmp_path / "out", large / "corpus.jsonl", workers)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("60,000 documents") == 1  # one rank speaks
    assert tree(tmp_path / "out") == tree(large / "again")


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun; the extra `dev` brings one")
def test_one_rank_that_fails_ends_all(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    write_lines(corpus, 60_000)
    with corpus.open("a") as file:
        file.write('\n{"text": 7}')
    done = mpi_build(tmp_path / "out", corpus)
    assert done.returncode == DataError.exit_code
    assert "corpus.jsonl:60001: bad JSON line" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun; the extra `dev` brings one")
def test_ranks_that_believe_to_be_on_hosts_of_their_own(large, tmp_path):
    """Simulated: each rank is told that it is alone on its host; nothing else is several hosts'."""
    alone = ("env", "OMPI_COMM_WORLD_LOCAL_SIZE=1", "OMPI_COMM_WORLD_LOCAL_RANK=0")
    done = mpi_build(tmp_path / "out", large / "corpus.jsonl", before=alone)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == tree(large / "again")


def mpi_build(out, corpus, workers=1, before=()):
    command = [*MPI, *before, sys.executable, "-m", "tttscale", "data", "build", out, corpus]
    command += ["--workers", str(workers), "--heldout", "0.1"]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[3],
    )


def test_a_store_keeps_its_tokenizer(tmp_path, corpus):
    definition = tokenizer_json()
    (tmp_path / "tokenizer.json").write_bytes(definition)
    info = build(tmp_path / "out", corpus, tokenizer=str(tmp_path / "tokenizer.json"), workers=2)
    store = open_store(tmp_path / "out")
    codec = store.tokenizer()
    assert codec.digest == info.tokenizer.digest
    start, end = store.split("train").document_starts[:2].tolist()
    assert codec.decode(store.split("train").read(start, end)).startswith("document 0: größer")
    (tmp_path / "out/tokenizer.json").write_bytes(definition + b" ")
    with pytest.raises(DataError, match=r"tokenizer\.json has \d+ bytes"):
        open_store(tmp_path / "out")


def tokenizer_json() -> bytes:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore
    return tokenizer.to_str().encode()


def test_torn_shards_are_written_anew(large, tmp_path, monkeypatch):
    """As a machine that lost its power may leave them: there, but not what was written."""
    monkeypatch.setattr("tttscale.data.builder.store_builder._Builder.publish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path / "out", large / "corpus.jsonl", **LARGE)
    monkeypatch.undo()
    (receipts,) = (tmp_path / "out.building").glob("receipts-*")
    for receipt in receipts.glob("*.json"):
        receipt.unlink()
    for shard in (tmp_path / "out.building").glob("store-*/*/*/c/*"):
        shard.write_bytes(shard.read_bytes()[:-7] + b"garbage")
    build(tmp_path / "out", large / "corpus.jsonl", **LARGE)
    assert tree(tmp_path / "out") == tree(large / "store")
