"""Slices of files of ready ids."""

import os

import numpy as np
import pytest

from tests.data.ids.writers import write_megatron, write_npy
from tttscale.data.builder import id_slices, source_slices
from tttscale.data.builder.id_slices import copy_slice, cut_id_files
from tttscale.data.builder.tokenized import HASH, LENGTH, TokenizedSlice
from tttscale.data.ids.find_files import open_id_files
from tttscale.data.ids.segments import Separators
from tttscale.data.workers import Counters
from tttscale.errors import DataError

EOS = 2


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch):
    monkeypatch.setattr(source_slices, "SMALLEST_BYTES", 64)
    monkeypatch.setattr(id_slices, "DOCUMENTS", 3)


def copied(folder, slices, separators=Separators(None, EOS), vocab_size=100):  # noqa: B008
    found = []
    for one in slices:
        target = TokenizedSlice(folder, one.name, "uint16")
        copy_slice(target, one, vocab_size, separators, Counters())
        assert target.is_done
        ends = np.cumsum(target.table()[:, LENGTH].astype(int))
        found += [ids.tolist() for ids in np.split(target.tokens(), ends)[:-1]]
    return found


def test_slices_hold_every_document_once(tmp_path):
    rng = np.random.default_rng(0)
    documents = [[*rng.integers(3, 100, rng.integers(0, 40)).tolist(), EOS] for _ in range(50)]
    flat = write_npy(tmp_path / "a.npy", documents)
    pair = write_megatron(tmp_path / "b", documents, "int32")
    files = open_id_files([flat, pair], 100, None)
    slices = cut_id_files(files, ["x"])
    assert len(slices) > 20
    assert copied(tmp_path, slices) == documents * 2
    assert sum(one.size_bytes for one in slices) == sum(len(d) for d in documents) * (2 + 4)
    assert [one.name for one in cut_id_files(files, ["x"])] == [one.name for one in slices]
    assert [one.name for one in cut_id_files(files, ["y"])] != [one.name for one in slices]


def test_the_hash_is_of_the_document_alone(tmp_path):
    """So equal documents are on one side of the held-out split, wherever they stand."""
    documents = [[5, 6, EOS], [7, EOS], [5, 6, EOS]]
    files = open_id_files([write_npy(tmp_path / "a.npy", documents)], 100, None)
    files += open_id_files([write_megatron(tmp_path / "b", documents, "int64")], 100, None)
    slices = cut_id_files(files, [])
    copied(tmp_path, slices)
    tables = [TokenizedSlice(tmp_path, one.name, "uint16").table() for one in slices]
    hashes = np.concatenate(tables)[:, HASH].tolist()
    assert len(set(hashes)) == 2
    assert hashes == [hashes[0], hashes[1], hashes[0]] * 2


def test_what_is_noticed(tmp_path):
    flat = write_npy(tmp_path / "a.npy", [[5, 6, 7]])
    pair = write_megatron(tmp_path / "b", [[5], [], [6, EOS]])
    slices = cut_id_files(open_id_files([flat, pair], 100, None), [])
    copied(tmp_path, slices)
    tallies = [TokenizedSlice(tmp_path, one.name, "uint16").tally() for one in slices]
    total = type(tallies[0]).sum(tallies)
    assert total.counts == {"not_ended": 2, "no_tokens": 1, "unseparated": 1}
    assert total.firsts["unseparated"] == str(flat)
    assert total.documents == 4
    assert {*total.digests} == {str(flat), str(pair), str(tmp_path / "b.bin")}


@pytest.mark.parametrize(("bad", "dtype"), [(100, "uint16"), (-1, "int32"), (1 << 40, "int64")])
def test_an_id_outside_the_vocabulary(tmp_path, bad, dtype):
    path = write_npy(tmp_path / "a.npy", [[5, bad, EOS]], dtype)
    slices = cut_id_files(open_id_files([path], 100, None), [])
    with pytest.raises(DataError, match=rf"a\.npy: id {bad}, outside \[0, 100\)"):
        copied(tmp_path, slices)
    assert not [*tmp_path.glob("*.tokens*")]


def test_a_file_that_changes_meanwhile(tmp_path):
    path = write_npy(tmp_path / "a.npy", [[5, EOS]] * 9)
    slices = cut_id_files(open_id_files([path], 100, None), [])
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match="cut short, or was changed"):
        copied(tmp_path, slices)


def test_a_file_that_is_written_while_it_is_read(tmp_path):
    """The size stays the same, so that only its time shows it."""
    path = write_npy(tmp_path / "a.npy", [[5, EOS]] * 9)
    index = write_megatron(tmp_path / "b", [[5, EOS]] * 9)
    for changed in (path, index):
        slices = cut_id_files(open_id_files([path, index], 100, None), [])
        os.utime(changed, ns=(1, 1))
        with pytest.raises(DataError, match=f"{changed.name}: it was changed while it was read"):
            copied(tmp_path, slices)


def test_only_files_without_a_dtype_are_told_to_have_one_given(tmp_path):
    path = write_npy(tmp_path / "a.npy", [[101, EOS]])
    (tmp_path / "b.bin").write_bytes(np.array([101, EOS], "<u2").tobytes())
    for file, dtype in ((path, None), (tmp_path / "b.bin", "uint16")):
        with pytest.raises(DataError, match="id 101, outside") as caught:
            copied(tmp_path, cut_id_files(open_id_files([file], 100, dtype), []))
        assert ("--dtype" in str(caught.value)) == (dtype is not None)
