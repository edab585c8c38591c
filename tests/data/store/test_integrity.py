"""A store is never silently wrong."""

import asyncio
import json
import random
import re
import shutil

import numpy as np
import pytest
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from tests.data.conftest import build
from tttscale.data import Windows, open_store
from tttscale.data.store.quarantine import QUARANTINE_FILE
from tttscale.data.store.verify import advice, quarantine, verify_store
from tttscale.data.store.zarr_guard import GuardedStore
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


def test_a_whole_store_is_whole(store):
    (store / "notes.txt").write_text("mine")
    report = verify_store(store, workers=2)
    assert report.damages == ()
    assert report.strangers == ("notes.txt",)
    assert report.render().endswith("whole")
    assert report.size_bytes == sum(f.bytes for f in open_store(store).info.files.values())


def damage_one_chunk(store, key, chunk):
    """Flips a bit in the data of inner chunk `chunk` of a shard of four."""
    path = store / key
    data = bytearray(path.read_bytes())
    offset, size = np.frombuffer(data[-4 * 16 - 4 : -4], "<u8").reshape(4, 2)[chunk].tolist()
    data[offset + size // 2] ^= 1
    path.write_bytes(data)


def test_damage_is_located_and_reported(store):
    damage_one_chunk(store, "train/tokens/c/1", 2)
    (store / "train/tokens/c/2").unlink()
    (store / "heldout/tokens/c/0").write_bytes(b"")
    report = verify_store(store)
    assert [(d.file, d.begin, d.end) for d in report.damages[-2:]] == [
        ("train/tokens/c/1", 384, 448),
        ("train/tokens/c/2", 512, 768),
    ]
    assert report.damages[0].file == "heldout/tokens/c/0"
    assert report.damages[0].begin == 0
    assert "DAMAGED  train/tokens/c/1 [384, 448): does not decode" in report.render()
    assert "3 of" in report.render()
    json.dumps(report.to_json())


def test_wrong_ids_under_good_digests_are_found(tmp_path, corpus):
    """As if the builder itself had been wrong: everything agrees, but an id does not exist."""
    from tests.data.store.test_token_store import edit_manifest

    build(tmp_path / "out", corpus)
    tokenizer = open_store(tmp_path / "out").info.tokenizer.model_dump()
    smaller = {"vocab_size": 200, "bos_id": None, "eos_id": None, "pad_id": None}
    edit_manifest(tmp_path / "out", tokenizer=tokenizer | smaller)
    reasons = {damage.reason for damage in verify_store(tmp_path / "out").damages}
    assert any("more than the 199 allowed" in reason for reason in reasons)


def test_quarantined_ranges_read_as_padding(store):
    whole = open_store(store).split("train")
    expected = whole.read(0, whole.num_tokens)
    damage_one_chunk(store, "train/tokens/c/1", 2)
    (store / "train/tokens/c/2").unlink()
    with pytest.raises(DataError, match=r"train/tokens/c/2 is missing"):
        open_store(store, damaged="pad")  # nothing is set apart by itself
    found = quarantine(store, verify_store(store))
    assert found.of("train") == [(384, 448), (512, 768)]
    with pytest.raises(DataError, match=r"train/tokens/c/2 is missing"):
        open_store(store)
    split = open_store(store, damaged="pad").split("train")
    expected[384:448] = expected[512:768] = split.filler
    np.testing.assert_array_equal(split.read(0, split.num_tokens), expected)
    np.testing.assert_array_equal(split.read(400, 600), expected[400:600])
    assert split.damaged_between(400, 600) == [(400, 448), (512, 600)]
    assert split.damaged_between(448, 512) == []


def test_a_mended_store_leaves_quarantine(store):
    shard = store / "train/tokens/c/1"
    good = shard.read_bytes()
    shard.unlink()
    quarantine(store, verify_store(store))
    assert (store / QUARANTINE_FILE).is_file()
    shard.write_bytes(good)
    assert quarantine(store, verify_store(store)).ranges == ()
    assert not (store / QUARANTINE_FILE).exists()


def test_what_to_do_about_damage_follows_the_quarantine(store):
    shard = store / "train/tokens/c/1"
    good = shard.read_bytes()
    assert advice(store, verify_store(store)) is None
    damage_one_chunk(store, "train/tokens/c/1", 2)
    found = verify_store(store)
    assert "run this with --quarantine and train" in str(advice(store, found))
    with pytest.raises(DataError, match=r"c/1 is damaged at .*\. Build it again"):
        open_store(store).split("train").read(250, 500)
    quarantine(store, found)
    assert "all of that is quarantined. Train with data.damaged=pad" in str(advice(store, found))
    with pytest.raises(DataError, match=r"c/1 is damaged at .* is quarantined: data\.damaged=pad"):
        open_store(store).split("train").read(250, 500)
    (store / "train/tokens/c/2").unlink()
    assert ", 1 of 2 places not quarantined" in str(advice(store, verify_store(store)))
    with pytest.raises(DataError, match=r"c/2 is missing, .* bytes\. Build it again"):
        open_store(store)
    quarantine(store, verify_store(store))
    with pytest.raises(DataError, match=r"c/2 is missing, .* is quarantined: data\.damaged=pad"):
        open_store(store)
    shutil.copy(store / "train/tokens/c/0", store / "train/tokens/c/2")
    shard.write_bytes(good)
    assert "is damaged, and all" in str(advice(store, verify_store(store)))


def test_a_quarantine_of_what_is_whole_again_is_mentioned(store):
    shard = store / "train/tokens/c/1"
    shard.rename(store / "aside")
    quarantine(store, verify_store(store))
    (store / "aside").rename(shard)
    assert "is whole, but quarantine.json lists ranges" in str(advice(store, verify_store(store)))


def test_quarantine_is_for_tokens_of_this_store_only(store, tmp_path, corpus):
    (store / "train/document_starts/c/0").unlink()
    with pytest.raises(DataError, match=r"document_starts/c/0 is damaged, and only ranges"):
        quarantine(store, verify_store(store))
    build(tmp_path / "other", corpus, holdout_fraction=0.5)
    (tmp_path / "other/train/tokens/c/0").unlink()
    quarantine(tmp_path / "other", verify_store(tmp_path / "other"))
    build(tmp_path / "third", corpus)
    text = (tmp_path / "other" / QUARANTINE_FILE).read_text()
    (tmp_path / "third" / QUARANTINE_FILE).write_text(text)
    with pytest.raises(DataError, match=r"belongs to another store"):
        open_store(tmp_path / "third", damaged="pad")


def test_plain_zarr_reads_a_store(store):
    """The format is plain Zarr v3: no tttscale is needed to read the tokens."""
    tokens = zarr.open_array(store, path="train/tokens", mode="r")
    split = open_store(store).split("train")
    np.testing.assert_array_equal(np.asarray(tokens[:]), split.read(0, split.num_tokens))


@pytest.mark.parametrize("mode", ["ignore", "reset", "whole"])
def test_windows_keep_damage_out_of_the_loss(store, tmp_path, mode):
    shutil.copytree(store, tmp_path / "whole")
    whole = open_store(tmp_path / "whole").split("train")
    damage_one_chunk(store, "train/tokens/c/1", 2)  # tokens 384 to 448
    quarantine(store, verify_store(store))
    split = open_store(store, damaged="pad").split("train")
    good, bad = (Windows(s, 200, 0, 8, mode) for s in (whole, split))
    assert good.count == bad.count
    hit = 0
    for number in range(good.count):
        for begin, end in ((0, 96), (96, 200)):
            a, b = (w.window(number).chunk(begin, end) for w in (good, bad))
            assert a.starts == b.starts
            before, after = (
                np.zeros(end - begin, bool) if c.padded is None else c.padded for c in (a, b)
            )
            new = after & ~before
            hit += int(new.sum())
            np.testing.assert_array_equal(a.ids[~new], b.ids[~new])
            assert (b.ids[new] == split.filler).all()
            assert (b.labels[new] == -100).all()
            lost = (a.labels != b.labels) & ~new
            assert lost.sum() <= 1  # the token whose label is damaged
            assert (b.labels[lost] == -100).all()
    assert hit == 64


class Synchronous:
    """A store as zarr 3.3 and later read it where nobody waits."""

    def __init__(self, files):
        self.files, self.asked = files, []

    def get_sync(self, key, *, prototype=None, byte_range=None):
        self.asked.append((key, byte_range))
        data = self.files.get(key)
        if data is None:
            return None
        suffix = isinstance(byte_range, SuffixByteRequest)
        data = data[-byte_range.suffix :] if suffix else data
        return default_buffer_prototype().buffer.from_bytes(data)


def test_the_synchronous_way_is_guarded_too(store):
    manifest = open_store(store).info.files
    keys = ["train/tokens/c/0", "train/tokens/c/1"]
    fake = Synchronous({keys[0]: (store / keys[0]).read_bytes()})
    guard = GuardedStore(fake, manifest, "here")  # type: ignore[arg-type]
    index = SuffixByteRequest(manifest[keys[0]].index_bytes)
    first = guard.get_sync(keys[0], byte_range=index)
    assert guard.get_sync(keys[0], byte_range=index).to_bytes() == first.to_bytes()
    assert len(fake.asked) == 1
    assert guard.get_sync(keys[0]).to_bytes() == fake.files[keys[0]]
    with pytest.raises(DataError, match=r"here: train/tokens/c/1 is missing"):
        guard.get_sync(keys[1], byte_range=index)
    fake.files[keys[1]] = fake.files[keys[0]]
    for wanted in (index, None):
        with pytest.raises(DataError, match=r"here: train/tokens/c/1 is damaged at its end"):
            guard.get_sync(keys[1], byte_range=wanted)


def test_several_ranges_at_once_are_guarded_too(store):
    """As zarr 3.3 and later ask for the chunks of a shard; older ones ask by `get` alone."""
    manifest, key = open_store(store).info.files, "train/tokens/c/1"
    guard = GuardedStore(LocalStore(store, read_only=True), manifest, "here")
    wanted = [RangeByteRequest(9, 30), SuffixByteRequest(manifest[key].index_bytes), None]
    data = (store / key).read_bytes()

    async def ask():
        groups = guard.get_ranges(
            key, wanted, prototype=default_buffer_prototype(), max_gap_bytes=1
        )
        return {place: one and one.to_bytes() async for group in groups for place, one in group}

    assert asyncio.run(ask()) == {0: data[9:30], 1: data[-manifest[key].index_bytes :], 2: data}
    (store / key).unlink()
    with pytest.raises(DataError, match=r"here: train/tokens/c/1 is missing"):
        asyncio.run(ask())


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
