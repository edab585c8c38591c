import json
import random
import shutil
from contextlib import suppress

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner
from zarr.codecs import BloscCodec

from tests.data.conftest import build
from tests.data.windows.test_mixture import config_of
from tests.hostile import BAD_JSON
from tests.test_harmed_files import VALUES, places, replaced
from tttscale.cli import app
from tttscale.data import Windows, open_store, render_info
from tttscale.data.inspect_step import inspect_step
from tttscale.data.store.verify import verify_store
from tttscale.data.windows.mixture import open_mixture
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
    store = open_store(arrays, vocab_size=1000)
    split = store.split("train")
    np.testing.assert_array_equal(split.read(100, 1700), TOKENS[100:1700])
    windows = Windows(split, 64, seed=0, mini_batch_tokens=16)
    np.testing.assert_array_equal(windows.window(3).chunk(0, 64).labels, TOKENS[193:257])
    assert store.split("val").num_tokens == 700
    assert len(store.fingerprint) == 32
    assert f"fingerprint {store.fingerprint}" in render_info(store.info)


def test_what_plain_arrays_cannot_do_is_said(arrays):
    store = open_store(arrays, vocab_size=1000)
    with pytest.raises(
        DataError, match=r"plain has no split 'heldout', only train, val.*data\.heldout_split"
    ):
        store.split("heldout")
    with pytest.raises(DataError, match=r"where documents begin.*data\.documents=ignore"):
        Windows(store.split("train"), 64, 0, 16, "reset")
    with pytest.raises(DataError, match=r"which tokenizer made them"):
        store.tokenizer()


def plain_config(*stores, **data):
    config = config_of([str(store) for store in stores], heldout_split="val", **data)
    model = config.model.model_copy(update={"vocab_size": 1000})
    return config.model_copy(update={"model": model})


def test_what_a_step_reads_of_plain_arrays(arrays):
    config = plain_config(arrays, documents="ignore")
    tokens = open_mixture(config)
    for sequence in inspect_step(config, tokens, 1, excerpt_tokens=0, most_documents=9).sequences:
        (document,) = sequence.documents
        assert document.document_tokens == 5000
        assert document.tokens == sequence.end - sequence.begin == config.data.sequence_length
    with pytest.raises(DataError, match=r"which tokenizer made them.*--tokens 0"):
        inspect_step(config, tokens, 1, excerpt_tokens=1, most_documents=9)


def test_plain_arrays_are_blended_with_each_other_only(arrays, tmp_path, corpus):
    shutil.copytree(arrays, tmp_path / "other")
    array = zarr.create_array(tmp_path / "other", name="test", shape=(9,), dtype="uint32")
    array[:] = 1
    tokens = open_mixture(plain_config(arrays, tmp_path / "other", documents="ignore"))
    assert [c.store.info.splits["train"].tokens for c in tokens.components] == [5000, 5000]
    assert len({c.store.fingerprint for c in tokens.components}) == 2
    build(tmp_path / "built", corpus, holdout_fraction=0.3)
    for pair in ([arrays, tmp_path / "built"], [tmp_path / "built", arrays]):
        config = plain_config(*pair, documents="ignore")
        with pytest.raises(DataError, match=r"plain: plain arrays.* do not name one.*built"):
            open_mixture(config.model_copy(update={"evaluate": no_evaluation(config)}))


def no_evaluation(config):
    return config.evaluate.model_copy(update={"sequences": 0})


def test_plain_arrays_have_nothing_to_verify(arrays):
    with pytest.raises(DataError, match=r"plain arrays have no digests to verify"):
        verify_store(arrays)


def test_plain_arrays_are_timed_too(arrays, tmp_path):
    words = f"bench data {arrays} --out {tmp_path / 'out'} --repeats 1 --ranks 1"
    options = ["--sequence", "600", "--chunk", "100"]
    done = CliRunner().invoke(app, [*words.split(), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_lost_chunks_and_foreign_ids_are_refused(arrays):
    with pytest.raises(DataError, match=r"holds id \d+ between .*outside \[0, 500\)"):
        open_store(arrays, vocab_size=500).split("train").read(0, 5000)
    chunk = next(p for p in arrays.rglob("3") if p.is_file())
    chunk.unlink()
    split = open_store(arrays, vocab_size=1000).split("train")
    split.read(0, 512)
    with pytest.raises(DataError, match=r"3 is missing"):
        split.read(1500, 1600)


def test_other_arrays_are_refused(tmp_path):
    zarr.create_array(tmp_path / "a", name="train", shape=(3,), dtype="float32")
    with pytest.raises(DataError, match=r"train is float32 \[3\]; plain arrays"):
        open_store(tmp_path / "a")


def test_arrays_whose_metadata_was_harmed(arrays):
    """Another value anywhere in it: the same tokens, others, or the one error."""
    path = next(
        path for name in ("zarr.json", ".zarray") if (path := arrays / "train" / name).exists()
    )
    whole, random_ = json.loads(path.read_text()), random.Random(0)
    (arrays / "val" / path.name).unlink()
    paths = [where for where in places(whole) if where]
    for _ in range(60):
        path.write_text(json.dumps(replaced(whole, random_.choice(paths), random_.choice(VALUES))))
        with suppress(DataError):
            split = open_store(arrays, vocab_size=1000).split("train")
            assert split.read(0, min(10, split.num_tokens)).max(initial=0) < 1000
    for content in BAD_JSON.values():
        path.write_bytes(content)
        with pytest.raises(DataError, match=str(arrays)):
            open_store(arrays, vocab_size=1000)
