import numpy as np
import pytest
from typer.testing import CliRunner

from tests.data.object_server import serving
from tttscale.cli import app
from tttscale.data import open_store
from tttscale.data.store.verify import verify_store
from tttscale.errors import DataError


@pytest.fixture
def server(store, monkeypatch):
    with serving(store.parent) as server:
        as_s3(server, monkeypatch)
        yield server


def as_s3(server, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT": server.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["http", "s3"])
def url(request, server, store):
    return f"{server.url}/{store.name}" if request.param == "http" else f"s3://bucket/{store.name}"


def test_a_remote_store_reads_as_the_local_one(store, url):
    local, remote = open_store(store), open_store(url)
    assert remote.info == local.info
    assert remote.tokenizer().digest == local.tokenizer().digest
    for name in ("train", "heldout"):
        a, b = local.split(name), remote.split(name)
        np.testing.assert_array_equal(a.read(0, a.num_tokens), b.read(0, b.num_tokens))
        np.testing.assert_array_equal(a.document_starts, b.document_starts)
    assert verify_store(url).damages == ()


def test_an_index_is_fetched_once_and_chunks_by_range(server, store, url):
    split = open_store(url).split("train")
    server.requests.clear()
    split.read(300, 310)
    split.read(310, 320)
    split.read(400, 410)
    shard = [r.range for r in server.requests if r.path.endswith("train/tokens/c/1")]
    assert len(shard) == 3  # one index and two chunks, of which one serves two reads
    assert shard[0] == "bytes=-68"
    assert all(shard)
    assert {r.path.rsplit("/", 1)[-1] for r in server.requests} == {"1"}


def test_lost_cut_and_swapped_shards(store, url):
    shards = store / "train/tokens/c"
    (shards / "1").unlink()
    (shards / "2").write_bytes((shards / "3").read_bytes())
    with pytest.raises(DataError, match=r"train/tokens/c/1 is missing|c/2 has \d+ bytes"):
        open_store(url).split("train").read(256, 300)
    if url.startswith("http:"):  # a listing would already have told
        with pytest.raises(DataError, match=r"train/tokens/c/2 is damaged at its end"):
            open_store(url).split("train").read(512, 520)
    assert {d.file for d in verify_store(url).damages} == {"train/tokens/c/1", "train/tokens/c/2"}


@pytest.mark.parametrize("behind", [63, 100])  # a chunk, several chunks
def test_a_shard_lost_under_a_reader_is_never_read_as_zeros(store, url, behind):
    split = open_store(url).split("train")
    split.read(256, 266)  # the shard's index is known from here on
    (store / "train/tokens/c/1").unlink()
    with pytest.raises(DataError, match=r"train/tokens/c/1 is missing"):
        split.read(320, 321 + behind)


def test_what_is_not_there(server, url):
    with pytest.raises(DataError, match=r"not a Zarr v3 group"):
        open_store(url + "-not")
    with pytest.raises(DataError, match=r"^nowhere://bucket/store: "):
        open_store("nowhere://bucket/store")


def test_credentials_that_may_not_list(store, monkeypatch):
    with serving(store.parent, may_list=False) as server:
        as_s3(server, monkeypatch)
        for work in (open_store, verify_store):
            with pytest.raises(
                DataError, match=r"^s3://bucket/store: listing its objects: .*listing"
            ):
                work("s3://bucket/store")


def test_a_remote_store_is_not_marked(server, url):
    server.requests.clear()
    asked = CliRunner().invoke(app, ["data", "verify", url, "--quarantine"])
    assert isinstance(asked.exception, DataError)
    assert f"--quarantine {url}: only a store in a folder" in str(asked.exception)
    assert not server.requests  # before hours of reading


@pytest.mark.parametrize("out", ["s3://bucket/out", "https://example.org/out"])
def test_a_store_is_not_built_behind_a_url(tmp_path, monkeypatch, corpus, out):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    asked = CliRunner().invoke(app, ["data", "build", out, str(corpus)])
    assert isinstance(asked.exception, DataError)
    assert f"OUT {out}: a store is built in a folder" in str(asked.exception)
    assert sorted(tmp_path.rglob("*")) == before
