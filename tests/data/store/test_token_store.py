import errno
import json
import os
import random

import numpy as np
import pytest

from tttscale.data import open_store
from tttscale.data.store.manifest import manifest_digest
from tttscale.errors import DataError

TOKENS = "train/tokens/c"


def edit_manifest(store, **changes):
    """Edits, and signs anew: what is tested is what the digest of the manifest cannot see."""
    path = store / "zarr.json"
    metadata = json.loads(path.read_text())
    fields = metadata["attributes"] | changes
    fields.pop("digest")
    metadata["attributes"] = fields | {"digest": manifest_digest(fields)}
    path.write_text(json.dumps(metadata))


def test_any_range_reads_as_the_whole_does(store):
    split = open_store(store).split("train")
    whole = split.read(0, split.num_tokens)
    assert len(list((store / TOKENS).iterdir())) > 3  # several shards
    chooser = random.Random(0)
    for _ in range(20):
        begin, end = sorted(chooser.randrange(split.num_tokens + 1) for _ in range(2))
        np.testing.assert_array_equal(split.read(begin, end), whole[begin:end])


@pytest.mark.parametrize("method", ["pathlib.Path.is_dir", "tttscale.files.os.open"])
def test_a_store_that_may_not_be_read(store, monkeypatch, method):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(method, refuse)
    with pytest.raises(DataError, match=rf"^{store}.*: Permission denied\. .*correct the path"):
        open_store(store)


def test_a_folder_inside_that_may_not_be_read_is_no_missing_file(store, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("/tokens/c"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=rf"^{store}/.*/tokens/c: Permission denied\."):
        open_store(store)


@pytest.mark.parametrize("name", ["valid", "../train", ""])
def test_unknown_split(store, name):
    with pytest.raises(DataError, match=rf"store has no split '{name}', only train, heldout\."):
        open_store(store).split(name)


def test_metadata_that_lies(store):
    path = store / "train/tokens/zarr.json"
    path.write_text(path.read_text().replace('"uint16"', '"int16" '))
    with pytest.raises(DataError, match=r"train/tokens/zarr\.json was changed"):
        open_store(store)


def lose(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [lose, empty, truncate])
@pytest.mark.parametrize("key", [f"{TOKENS}/2", "heldout/document_starts/c/0"])
def test_lost_and_short_shards_are_refused_at_open(store, harm, key):
    harm(store / key)
    with pytest.raises(DataError, match=rf"{key} (is missing|has \d+ bytes)"):
        open_store(store)


@pytest.mark.parametrize("harm", [lose, empty])
def test_a_shard_lost_after_open_is_never_read_as_zeros(store, harm):
    split = open_store(store).split("train")
    harm(store / TOKENS / "1")
    split.read(0, 256)
    with pytest.raises(DataError, match=rf"{TOKENS}/1 "):
        split.read(250, 260)


def test_no_flipped_bit_passes(store):
    expected = open_store(store).split("train").read(0, 512)
    shard = store / TOKENS / "1"
    good = shard.read_bytes()
    chooser = random.Random(0)
    for _ in range(64):
        bad = bytearray(good)
        bad[chooser.randrange(len(bad))] ^= 1 << chooser.randrange(8)
        shard.write_bytes(bad)
        try:
            read = open_store(store).split("train").read(0, 512)
        except DataError as error:
            assert f"{TOKENS}/1 is damaged at " in str(error)  # noqa: PT017
        else:  # the flip hit a bit of a frame's header that means nothing
            np.testing.assert_array_equal(read, expected)


def test_a_flip_is_located(store):
    split = open_store(store).split("train")
    shard = store / TOKENS / "1"
    data = bytearray(shard.read_bytes())
    offset, size = np.frombuffer(data[-4 * 16 - 4 : -4], "<u8").reshape(4, 2)[2].tolist()
    data[offset + size // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=rf"{TOKENS}/1 is damaged at value 128 .*\(384 of"):
        split.read(200, 500)


def test_ids_beyond_the_vocabulary_are_refused(store):
    tokenizer = json.loads((store / "zarr.json").read_text())["attributes"]["tokenizer"]
    smaller = {"vocab_size": 100, "bos_id": None, "eos_id": None, "pad_id": None}
    edit_manifest(store, tokenizer=tokenizer | smaller)
    with pytest.raises(DataError, match=r"holds id 25\d .* has 100 ids"):
        open_store(store).split("train").read(0, 10)


def test_short_reads_decode_a_chunk_once(store, monkeypatch):
    split = open_store(store).split("train")
    whole = split.read(0, split.num_tokens)  # too long to be kept
    decoded = []
    decode = type(split)._decode
    monkeypatch.setattr(
        type(split), "_decode", lambda self, a, b: decoded.append((a, b)) or decode(self, a, b)
    )
    for begin in range(100, 250, 10):
        np.testing.assert_array_equal(split.read(begin, begin + 11), whole[begin : begin + 11])
    assert decoded == [(64, 128), (128, 192), (192, 256)]
    assert len(split.read(70, 70)) == 0
    end = split.num_tokens
    np.testing.assert_array_equal(split.read(end - 70, end), whole[-70:])
    with pytest.raises(ValueError, match="read-only"):
        split.read(100, 110)[0] = 0  # what is remembered cannot be written
