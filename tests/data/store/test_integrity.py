"""A store is never silently wrong."""

import json
import random
import re
import shutil

import numpy as np
import pytest
import zarr

from tests.data.conftest import build
from tttscale.data import open_store
from tttscale.data.store.verify import verify_store
from tttscale.errors import DataError

FLIPS = 256


def read_everything(path):
    """All that a store holds; raises DataError if anything is wrong on the way."""
    store = open_store(path)
    found = [store.tokenizer().vocab_size]
    for name in ("train", "heldout"):
        split = store.split(name)
        found += [split.read(0, split.num_tokens), split.document_starts]
    return found


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def files_of(store):
    return sorted(path for path in store.rglob("*") if path.is_file())


def flip(path, chooser):
    good = path.read_bytes()
    bad = bytearray(good)
    bad[chooser.randrange(len(bad))] ^= 1 << chooser.randrange(8)
    path.write_bytes(bad)
    return good


def verdict(store):
    """What `data verify` says: the damaged files, or the error that it stops with."""
    try:
        return {damage.file for damage in verify_store(store).damages}
    except DataError as error:
        return str(error)


def test_every_flipped_bit_is_noticed(store):
    expected = read_everything(store)
    chooser, noticed, harmless = random.Random(0), 0, 0
    for number in range(FLIPS):
        path = chooser.choice(files_of(store))
        good = flip(path, chooser)
        try:
            harmless += same(read_everything(store), expected)
        except DataError:
            noticed += 1
        if number % 16 == 0:
            key = path.relative_to(store).as_posix()
            said = verdict(store)
            assert key in said or key == "zarr.json", (key, said)
        path.write_bytes(good)
    # A few bits of a frame's header mean nothing: then what is read is what was built.
    assert noticed + harmless == FLIPS
    assert noticed > 0.9 * FLIPS
    assert verdict(store) == set()


def test_two_good_shards_that_changed_places(store):
    folder = store / "train/tokens/c"
    first, second = (folder / name for name in ("0", "1"))
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    with pytest.raises(DataError, match=r"train/tokens/c/\d (has \d+ bytes|is damaged at its end)"):
        read_everything(store)
    assert verdict(store) == {"train/tokens/c/0", "train/tokens/c/1"}


EDITS = [
    ("train/tokens/zarr.json", r'"uint16"', '"int16"'),
    ("train/tokens/zarr.json", r'"uint16"', '"uint32"'),
    ("train/tokens/zarr.json", r'"shape": \[\s*\d+', '"shape": [7'),
    ("train/tokens/zarr.json", r'"fill_value": 0', '"fill_value": 1'),
    ("train/tokens/zarr.json", r'"zstd"', '"gzip"'),
    ("heldout/document_starts/zarr.json", r'"uint64"', '"int64"'),
    ("heldout/zarr.json", r'"group"', '"array"'),
    ("zarr.json", r'"vocab_size": 259', '"vocab_size": 260'),
    ("zarr.json", r'"tokens": \d+', '"tokens": 9'),
    ("zarr.json", r'"seed": 0', '"seed": 1'),
    ("zarr.json", r'"complete": true', '"complete": false'),
    ("zarr.json", r'"eos_id": 257', '"eos_id": 0'),
    ("zarr.json", r'"zarr_format": 3', '"zarr_format": 2'),
    ("zarr.json", r'"index_bytes": \d+', '"index_bytes": 21'),
]


@pytest.mark.parametrize(("file", "pattern", "replacement"), EDITS)
def test_edited_metadata_is_refused(store, file, pattern, replacement):
    text, count = re.subn(pattern, replacement, (store / file).read_text(), count=1)
    assert count == 1
    (store / file).write_text(text)
    with pytest.raises(DataError):
        read_everything(store)
    said = verdict(store)
    assert file in said or isinstance(said, str)


def test_consolidated_metadata_cannot_speak_for_the_arrays(store):
    """Zarr would believe a copy of the arrays' metadata in the root before the arrays' own."""
    path = store / "train/tokens/zarr.json"
    lie = json.loads(path.read_text()) | {"fill_value": 3, "shape": [64]}
    root = json.loads((store / "zarr.json").read_text())
    root["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {"train/tokens": lie},
    }
    expected = read_everything(store)
    (store / "zarr.json").write_text(json.dumps(root))
    assert same(read_everything(store), expected)


def test_plain_zarr_reads_a_store(store):
    """The format is plain Zarr v3: no tttscale is needed to read the tokens."""
    tokens = zarr.open_array(store, path="train/tokens", mode="r")
    split = open_store(store).split("train")
    np.testing.assert_array_equal(np.asarray(tokens[:]), split.read(0, split.num_tokens))


def test_a_store_built_anew_under_a_reader_is_refused(store, corpus):
    split = open_store(store).split("train")
    expected = split.read(0, split.num_tokens)
    split.read(10, 20)  # its shard's index is known from here on
    shutil.rmtree(store)
    build(store, corpus, holdout_fraction=0.4, seed=1)
    np.testing.assert_array_equal(split.read(12, 22), expected[12:22])  # remembered
    refused = 0
    for begin in range(64, split.num_tokens - 64, 64):
        try:
            found = split.read(begin, begin + 64)
        except DataError:
            refused += 1
        else:  # the same text stood there again
            np.testing.assert_array_equal(found, expected[begin : begin + 64])
    assert refused > 10
