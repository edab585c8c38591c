"""Reading tokens by every way gives the same ones, and the report says which ways were not there."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tttscale.bench import data, data_peers
from tttscale.bench.data_peers import MEMMAP, OURS
from tttscale.cli import app
from tttscale.data import BuildOptions, build_store
from tttscale.data.store.token_store import TokenStore
from tttscale.errors import ConfigError, DataError

READERS = [*OURS, "zarr-python", MEMMAP]
CASES = [
    "a window, one read",
    "chunks, at random",
    "a window, rank 0 of 1",
    "a window, rank 0 of 3",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    text = folder / "corpus.jsonl"
    lines = [json.dumps({"text": f"line {i} " * (i % 9 + 1)}) for i in range(60)]
    text.write_text("\n".join(lines))
    build_store(folder / "store", [str(text)], BuildOptions(chunk_tokens=64, shard_tokens=256))
    return folder / "store"


def bench(store, *options, out):
    words = ["bench", "data", str(store), "--out", str(out), "--repeats", "1"]
    done = CliRunner().invoke(app, [*words, *options], catch_exceptions=False)
    assert done.exit_code == 0
    return out.with_suffix(".md").read_text(), json.loads(out.with_suffix(".json").read_text())


def test_report(store, tmp_path, monkeypatch):
    missing = {"Some Peer": ("tttscale_no_such.peer", data_peers.mds_reader)}
    monkeypatch.setattr(data_peers, "PEERS", missing)
    options = ["--sequence", "500", "--chunk", "96", "--ranks", "1,3", "--peers"]
    text, found = bench(store, *options, out=tmp_path / "report")
    rows = [(row["case"], row["reader"]) for row in found["data"]["cases"]]
    assert rows == [(case, reader) for case in CASES for reader in READERS]
    tokens = {row["case"]: row["tokens"] for row in found["data"]["cases"]}
    assert list(tokens.values()) == [500, 480, 500, 192]
    assert [c["tokens"] for c in found["data"]["simulated"]] == [500] * 6
    assert "| all |  | Some Peer | not installed |" in text
    assert "page cache is warm" in text
    assert text.count("simulated, s") == 6
    assert found["data"]["bytes_per_token"][MEMMAP] == 2


def test_other_tokens_are_an_error(store, tmp_path, monkeypatch):
    monkeypatch.setattr(TokenStore, "read", lambda self, array, name, a, b: np.arange(a, b) % 7)
    with pytest.raises(DataError, match=r"gave other tokens than the rest"):
        data.bench_data(tmp_path / "report", str(store), "train", 500, 96, [1], 1, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sequence", "1Mi"], r"--sequence 1048576: split train has \d+ tokens"),
        (["--sequence", "100", "--chunk", "200"], r"--chunk 200 is more than --sequence 100"),
        (["--ranks", "1,x"], r"--ranks 'x': expected a whole number"),
        (["--chunk", "0"], r"--chunk '0': expected at least 1"),
    ],
)
def test_flags(store, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        bench(store, *options, out=tmp_path / "report")


def test_no_store(tmp_path):
    with pytest.raises(DataError, match=r"no such folder"):
        bench(tmp_path / "nowhere", out=tmp_path / "report")
