"""Damaged ranges that are set apart, so that the rest can be trained on."""

import shutil

import numpy as np
import pytest

from tests.data.conftest import build
from tests.data.store.test_verify import damage_one_chunk
from tttscale.data import Windows, open_store
from tttscale.data.store.quarantine import QUARANTINE_FILE
from tttscale.data.store.verify import quarantine, verify_store
from tttscale.errors import DataError


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
