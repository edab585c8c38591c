"""Pairs of .bin and .idx."""

import struct

import numpy as np
import pytest

from tests.data.ids.writers import CODES, write_megatron
from tttscale.data.ids.megatron import open_megatron
from tttscale.errors import DataError

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12], [4]]
LENGTHS, POINTERS, FIRSTS = 34, 34 + 4 * 4, 34 + 12 * 4


def contents(index):
    file = open_megatron(index)
    ends = file.ends.read(0, file.ends.count).tolist()
    ids = file.ids.read(0, file.ids.count).tolist()
    return [ids[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "int64"])
@pytest.mark.parametrize("options", [{}, {"sentences": 2}, {"fairseq": True}, {"modes": [0] * 4}])
def test_both_indexes_and_all_dtypes(tmp_path, dtype, options):
    index = write_megatron(tmp_path / "a", DOCUMENTS, dtype, **options)
    assert contents(index) == DOCUMENTS
    file = open_megatron(index)
    assert file.dtype_name == dtype
    assert file.kind == ("fairseq index" if "fairseq" in options else "Megatron index")


def test_empty_ones(tmp_path):
    assert contents(write_megatron(tmp_path / "a", [])) == []
    assert contents(write_megatron(tmp_path / "b", [[], [3], []])) == [[], [3], []]
    assert contents(write_megatron(tmp_path / "c", [[], [3, 4], []], sentences=2)) == [
        [],
        [3, 4],
        [],
    ]


def changed(index, offset, kind, value):
    data = bytearray(index.read_bytes())
    struct.pack_into(kind, data, offset, value)
    index.write_bytes(data)
    return index


@pytest.mark.parametrize(
    ("offset", "kind", "value", "said"),
    [
        (0, "<B", 0, "does not begin as an index"),
        (9, "<Q", 2, "version 2 of the index"),
        (17, "<B", CODES["float32"], "code 7 for the dtype"),
        (17, "<B", 2, "code 2 for the dtype"),
        (
            17,
            "<B",
            CODES["int32"],
            "sequence 1 begins at byte 6, but by the lengths before it at byte 12",
        ),
        (18, "<Q", 5, "none of the sizes that 5 sequences"),
        (18, "<Q", 1 << 60, "none of the sizes"),
        (26, "<Q", 0, "none of the sizes"),
        (LENGTHS, "<i", -3, "sequence 0 has the length -3"),
        (LENGTHS + 12, "<i", 2, "take 20 bytes or more, but the .bin beside it has 18"),
        (POINTERS, "<q", -6, "sequence 0 begins at byte -6"),
        (POINTERS + 16, "<q", 6, "sequence 2 begins at byte 6"),  # overlaps
        (POINTERS + 24, "<q", 1 << 40, "sequence 3 begins at byte"),
        (FIRSTS, "<q", 1, "entry 0 of its documents"),
        (FIRSTS + 8, "<q", -(1 << 63), "entry 1 of its documents"),
        (FIRSTS + 16, "<q", 0, "entry 2 of its documents"),
        (FIRSTS + 32, "<q", 5, "end with sequence 5, and there are 4"),
        (FIRSTS + 32, "<q", 3, "end with sequence 3, and there are 4"),
    ],
)
def test_what_contradicts_is_refused(tmp_path, offset, kind, value, said):
    index = changed(write_megatron(tmp_path / "a", DOCUMENTS), offset, kind, value)
    with pytest.raises(DataError, match=rf"a\.idx: .*{said}"):
        open_megatron(index)


def test_other_kinds(tmp_path):
    index = write_megatron(tmp_path / "a", DOCUMENTS, modes=[0, 0, 1, 0])
    with pytest.raises(DataError, match="sequences that are not text"):
        open_megatron(index)
    index.write_bytes(b"TNTIDX\0\0" + index.read_bytes())
    with pytest.raises(DataError, match="before memory maps"):
        open_megatron(index)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(DataError, match=r"a\.bin: No such file"):
        open_megatron(write_megatron(tmp_path / "b", DOCUMENTS).rename(tmp_path / "a.idx"))


@pytest.mark.parametrize("options", [{}, {"fairseq": True}])
def test_every_cut_and_every_flipped_bit_of_the_header(tmp_path, options):
    """An error, or the right documents: never others."""
    index = write_megatron(tmp_path / "a", DOCUMENTS, **options)
    data = tmp_path / "a.bin"
    for path in (index, data):
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(DataError, match=r"source "):
                open_megatron(index)
        path.write_bytes(whole)
    whole = index.read_bytes()
    for bit in range(
        8 * (len(whole) if options else FIRSTS)
    ):  # the header, the lengths and the pointers
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        index.write_bytes(flipped)
        with pytest.raises(DataError, match=r"a\.idx: "):
            open_megatron(index)


def test_a_flipped_bit_among_the_documents_moves_no_id(tmp_path):
    """The format has no checksum: an end may move from one sequence to the next, and nothing else."""
    index = write_megatron(tmp_path / "a", DOCUMENTS)
    whole = index.read_bytes()
    for bit in range(8 * FIRSTS, 8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        index.write_bytes(flipped)
        try:
            found = contents(index)
        except DataError:
            continue
        assert [i for ids in found for i in ids] == [i for ids in DOCUMENTS for i in ids]
        ends = np.cumsum([len(ids) for ids in found])
        assert {*ends.tolist()} <= {0, 3, 4, 8, 9}
