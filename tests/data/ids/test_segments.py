"""Documents of files of ids, whatever the ranges and the blocks that they are read in."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.ids.writers import write_megatron, write_nanoset, write_npy
from tttscale.data.ids import segments as module
from tttscale.data.ids.megatron import open_megatron
from tttscale.data.ids.nanoset import open_nanoset
from tttscale.data.ids.npy import open_npy
from tttscale.data.ids.segments import Separators, segments

BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ids")


def documents_of(file, cuts, separators):
    """The documents, read in the ranges between `cuts`."""
    found, open_ids = [], []
    for begin, end in pairwise(cuts):
        for ids, ends in segments(file, begin, end, separators):
            at = 0
            for stop in ends.tolist():
                found.append([*open_ids, *ids[at:stop].tolist()])
                open_ids, at = [], stop
            open_ids += ids[at:].tolist()
        assert open_ids == [], "a range ends with its last document"
    return found


def split_by_hand(ids, bos, eos):
    found = []
    for i, one in enumerate(ids):
        if i == 0 or one == bos or (eos is not None and ids[i - 1] == eos):
            found.append([])
        found[-1].append(one)
    return found


@settings(deadline=None, max_examples=300)
@given(
    ids=st.lists(st.integers(0, 4), max_size=60),
    bos=st.sampled_from([None, BOS]),
    eos=st.sampled_from([None, EOS]),
    inner=st.lists(st.integers(0, 60), max_size=5),
    block=st.integers(1, 9),
)
def test_separated(folder, ids, bos, eos, inner, block):
    file = open_npy(write_npy(folder / "a.npy", [ids]))
    cuts = [0, *sorted(c for c in inner if c < len(ids)), len(ids)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = documents_of(file, cuts, Separators(bos, eos))
    assert found == split_by_hand(ids, bos, eos)


@settings(deadline=None, max_examples=200)
@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=12),
    inner=st.lists(st.integers(0, 12), max_size=4),
    block=st.integers(1, 9),
    at_once=st.integers(1, 4),
    sentences=st.integers(1, 3),
)
def test_indexed(folder, documents, inner, block, at_once, sentences):
    """By an index the documents are kept, empty ones too, and no id separates."""
    cuts = [0, *sorted(c for c in inner if c < len(documents)), len(documents)]
    files = [
        open_megatron(write_megatron(folder / "a", documents, "int32", sentences=sentences)),
        open_megatron(write_megatron(folder / "b", documents, fairseq=True)),
        open_nanoset(write_nanoset(folder / "c.ds", documents), 10),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "DOCUMENTS", at_once)
        for file in files:
            assert file.ends.count == len(documents)
            assert documents_of(file, cuts, Separators(BOS, EOS)) == documents


def test_memory_is_bounded_by_blocks(folder):
    """A file without a separator is one document, read in blocks."""
    file = open_npy(write_npy(folder / "long.npy", [np.zeros(3 * module.BLOCK + 5, "uint16")]))
    found = [*segments(file, 0, file.ids.count, Separators(BOS, EOS))]
    assert [len(one.ids) for one in found] == [module.BLOCK] * 3 + [5]
    assert [len(one.ends) for one in found] == [0, 0, 0, 1]
