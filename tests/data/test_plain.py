import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from tttscale.data import TokenStore, Windows, render_info
from tttscale.errors import DataError

TOKENS = np.random.default_rng(0).integers(1, 1000, 5000)


@pytest.fixture(params=[2, 3])
def arrays(tmp_path, request):
    """1-D arrays per split, as TTT-E2E's recipe reads them, in both versions of the format."""
    options = {"zarr_format": request.param, "chunks": (512,), "dtype": "uint32"}
    if request.param == 3:
        options["compressors"] = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    for name, tokens in {"train": TOKENS, "val": TOKENS[:700]}.items():
        array = zarr.create_array(tmp_path / "plain", name=name, shape=tokens.shape, **options)
        array[:] = tokens
    return tmp_path / "plain"


def test_plain_arrays_are_read_by_windows(arrays):
    store = TokenStore.open(arrays, vocab_size=1000)
    split = store.split("train")
    np.testing.assert_array_equal(split.read(100, 1700), TOKENS[100:1700])
    windows = Windows(split, 64, seed=0, mini_batch_tokens=16)
    np.testing.assert_array_equal(windows.window(3).chunk(0, 64).labels, TOKENS[193:257])
    assert store.split("val").num_tokens == 700
    assert len(store.fingerprint) == 32
    assert "train" in render_info(store.info)


def test_what_plain_arrays_cannot_do_is_said(arrays):
    store = TokenStore.open(arrays, vocab_size=1000)
    with pytest.raises(DataError, match=r"has only train, val.*data\.heldout_split"):
        store.split("heldout")
    with pytest.raises(DataError, match=r"where documents begin.*data\.documents=ignore"):
        Windows(store.split("train"), 64, 0, 16, "reset")
    with pytest.raises(DataError, match=r"which tokenizer made them"):
        store.tokenizer()


def test_lost_chunks_and_foreign_ids_are_refused(arrays):
    with pytest.raises(DataError, match=r"holds id \d+ between .*outside \[0, 500\)"):
        TokenStore.open(arrays, vocab_size=500).split("train").read(0, 5000)
    chunk = next(p for p in arrays.rglob("3") if p.is_file())
    chunk.unlink()
    split = TokenStore.open(arrays, vocab_size=1000).split("train")
    split.read(0, 512)
    with pytest.raises(DataError, match=r"3 is missing"):
        split.read(1500, 1600)


def test_other_arrays_are_refused(tmp_path):
    zarr.create_array(tmp_path / "a", name="train", shape=(3,), dtype="float32")
    with pytest.raises(DataError, match=r"train is float32 \[3\]; plain arrays"):
        TokenStore.open(tmp_path / "a")
