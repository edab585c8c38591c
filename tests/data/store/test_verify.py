"""What `data verify` finds, and what it says to do about it."""

import json
import shutil

import numpy as np
import pytest

from tests.data.conftest import build
from tttscale.data import open_store
from tttscale.data.store.verify import advice, quarantine, verify_store
from tttscale.errors import DataError


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
