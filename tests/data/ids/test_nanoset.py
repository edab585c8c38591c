"""Nanosets."""

import numpy as np
import pytest

from tests.data.ids.writers import write_nanoset
from tttscale.data.ids.nanoset import open_nanoset
from tttscale.errors import DataError

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12]]
SMALL, LARGE = 1 << 16, (1 << 16) + 1


def contents(path, vocab_size=SMALL, dtype=None):
    file = open_nanoset(path, vocab_size, dtype)
    ends = file.ends.read(0, file.ends.count).tolist()
    ids = file.ids.read(0, file.ids.count).tolist()
    return [ids[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("metadata", ["name|size", "name", None])
@pytest.mark.parametrize(("dtype", "vocab_size"), [("uint16", SMALL), ("uint32", LARGE)])
def test_two_and_four_bytes(tmp_path, metadata, dtype, vocab_size):
    path = write_nanoset(tmp_path / "a.ds", DOCUMENTS, dtype, metadata=metadata)
    assert contents(path, vocab_size) == DOCUMENTS
    file = open_nanoset(path, vocab_size)
    assert file.dtype_name == dtype
    assert file.tokenizer == ("gpt2" if metadata else "")


def test_what_is_said_comes_before_the_vocabulary(tmp_path):
    path = write_nanoset(tmp_path / "a.ds", DOCUMENTS, "uint32")
    assert contents(path, SMALL) == DOCUMENTS
    path = write_nanoset(tmp_path / "b.ds", DOCUMENTS, "uint32", metadata=None)
    with pytest.raises(DataError, match="32 bytes, but 2 bytes an id, its index 8 tokens"):
        open_nanoset(path, SMALL)
    assert contents(path, SMALL, "uint32") == DOCUMENTS


def test_without_an_index(tmp_path):
    path = write_nanoset(tmp_path / "a.ds", DOCUMENTS, index=False)
    assert open_nanoset(path, SMALL).ends is None
    path = write_nanoset(tmp_path / "b.ds", DOCUMENTS, index=False, metadata=None)
    with pytest.raises(
        DataError, match=r"b\.ds: neither b\.ds\.index nor .*--dtype uint16 or uint32"
    ):
        open_nanoset(path, SMALL)
    file = open_nanoset(path, SMALL, "uint16")
    assert file.ids.read(0, 8).tolist() == [i for ids in DOCUMENTS for i in ids]


def test_a_mask_is_noticed(tmp_path):
    path = write_nanoset(tmp_path / "a.ds", DOCUMENTS)
    assert not open_nanoset(path, SMALL).has_mask
    (tmp_path / "a.ds.loss").write_bytes(b"\1" * 8)
    assert open_nanoset(path, SMALL).has_mask


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([3, 2, 8], "document 1 ends before the one before it"),
        ([3, 4, 7], "16 bytes, but 2 bytes an id, its index 7 tokens"),
        ([3, 4, 1 << 63], r"ends after 9,223"),
        ([], "its index 0 tokens"),
    ],
)
def test_an_index_that_contradicts(tmp_path, ends, said):
    path = write_nanoset(tmp_path / "a.ds", DOCUMENTS)
    (tmp_path / "a.ds.index").write_bytes(np.array(ends, np.uint64).tobytes())
    with pytest.raises(DataError, match=said):
        open_nanoset(path, SMALL)


@pytest.mark.parametrize("metadata", ["name|size", "name", None])
@pytest.mark.parametrize(("dtype", "vocab_size"), [("uint16", SMALL), ("uint32", LARGE)])
def test_every_cut_and_every_flipped_bit(tmp_path, metadata, dtype, vocab_size):
    """An error, or the right ids, and documents that end where some did; never other ids."""
    path = write_nanoset(tmp_path / "a.ds", DOCUMENTS, dtype, metadata=metadata)
    for one in [*tmp_path.iterdir()]:
        whole = one.read_bytes()
        for size in range(len(whole)):
            one.write_bytes(whole[:size])
            described = one.suffix == ".metadata" and size > whole.index(b"\n8") + 1
            if described:  # the third line is for people
                assert contents(path, vocab_size) == DOCUMENTS
            else:
                with pytest.raises(DataError, match=r"source "):
                    open_nanoset(path, vocab_size)
        if one != path:
            for bit in range(8 * len(whole)):
                flipped = bytearray(whole)
                flipped[bit // 8] ^= 1 << bit % 8
                one.write_bytes(flipped)
                try:
                    found = contents(path, vocab_size)
                except DataError:
                    continue
                assert [i for ids in found for i in ids] == [i for ids in DOCUMENTS for i in ids]
        one.write_bytes(whole)
