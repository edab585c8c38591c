"""Arrays of NumPy."""

import io
import pickle

import numpy as np
import pytest

from tests.data.ids.writers import write_npy
from tttscale.data.ids.npy import open_npy
from tttscale.errors import DataError


def ids_of(path):
    file = open_npy(path)
    return file.ids.read(0, file.ids.count)


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "int16", "int32", "int64", "uint64"]
)
def test_integers(tmp_path, dtype):
    path = write_npy(tmp_path / "a.npy", [[1, 2], [3]], dtype)
    file = open_npy(path)
    assert file.dtype_name == dtype
    assert ids_of(path).tolist() == [1, 2, 3]


def test_version_2_of_the_header(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(5, dtype="u2"), version=(2, 0))
    assert ids_of(tmp_path / "a.npy").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(3), "float64, and ids are integers"),
        (np.zeros(3, bool), "bool, and ids"),
        (np.zeros((2, 3), "u2"), r"shape \[2, 3\].*reshape"),
        (np.zeros((), "u2"), r"shape \[\]"),
        (np.zeros(3, ">u2"), "big-endian uint16.*<u2"),
        (np.zeros(3, [("a", "u2")]), "ids are integers"),
        (np.zeros(3, "U2"), "ids are integers"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=said):
        open_npy(tmp_path / "a.npy")


class Planted:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_nothing_is_unpickled(tmp_path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    (tmp_path / "a.npy").write_bytes(head.getvalue() + pickle.dumps(Planted()))
    with pytest.raises(DataError, match="Python objects, which are not read"):
        open_npy(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Planted()))
    with pytest.raises(DataError, match=r"not a \.npy file"):
        open_npy(tmp_path / "b.npy")


def test_every_cut_and_every_flipped_bit_of_the_header(tmp_path):
    """An error, or the right ids: never others."""
    path = write_npy(tmp_path / "a.npy", [np.arange(7) * 5000])
    whole, right = path.read_bytes(), ids_of(path).tolist()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.npy: "):
            open_npy(path)
    refused = 0
    for bit in range(8 * 128):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            assert ids_of(path).tolist() == right, bit
        except DataError:
            refused += 1
    assert refused > 500
    path.write_bytes(whole + b"\0\0")
    with pytest.raises(DataError, match="144 bytes, but its header says 7 ids in 142 bytes"):
        open_npy(path)
