"""Which files hold ids."""

import numpy as np
import pytest

from tests.data.ids.writers import write_megatron, write_nanoset, write_npy
from tttscale.data.ids.find_files import open_id_files, with_endings
from tttscale.data.ids.segments import Separators, segments
from tttscale.errors import DataError

DOCUMENTS = [[5, 6, 7], [8]]


def kinds(files, dtype=None, vocab_size=100):
    return [(one.path.name, one.kind) for one in open_id_files(files, vocab_size, dtype)]


def test_each_file_once(tmp_path):
    write_npy(tmp_path / "a.npy", DOCUMENTS)
    write_megatron(tmp_path / "b", DOCUMENTS)
    write_nanoset(tmp_path / "c.ds", DOCUMENTS)
    found = kinds(sorted(tmp_path.iterdir()))
    assert found == [("a.npy", "NumPy array"), ("b.bin", "Megatron index"), ("c.ds", "nanoset")]
    assert kinds([tmp_path / "b.bin"]) == kinds([tmp_path / "b.idx"]) == found[1:2]
    assert with_endings([f"{tmp_path}/b", f"{tmp_path}/c.ds"]) == [
        f"{tmp_path}/b.idx",
        f"{tmp_path}/c.ds",
    ]


def test_bare_numbers(tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes(np.array([1, 2, 3], "<u2").tobytes())
    with pytest.raises(DataError, match=r"no train\.idx is beside it.*--dtype"):
        kinds([path])
    assert kinds([path], "uint16") == [("train.bin", "bare numbers")]
    with pytest.raises(DataError, match="6 bytes, which are no whole number of uint32"):
        kinds([path], "uint32")
    with pytest.raises(DataError, match="--dtype float16: give uint8"):
        kinds([path], "float16")


def test_what_is_refused(tmp_path):
    path = write_npy(tmp_path / "a.npy", DOCUMENTS)
    other = tmp_path / "tokenizer.pkl"
    other.write_bytes(b"")
    with pytest.raises(DataError, match=r"tokenizer\.pkl\. Name the files themselves, .*--exclude"):
        kinds([path, other])
    lonely = tmp_path / "b.ds.index"
    lonely.write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.ds\.index"):
        kinds([path, lonely])
    with pytest.raises(DataError, match=r"--dtype uint32: .*says that its ids are uint16"):
        kinds([path], "uint32")
    with pytest.raises(DataError, match="uint16 has no room for the ids of a vocabulary of 65,537"):
        kinds([path], vocab_size=65537)


def damaged(data, rng):
    """A copy with a bit flipped, a part cut out, put in twice or swapped, or its end cut off."""
    a, b = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    kind = rng.integers(0, 5)
    if kind == 0 and data:
        flipped = bytearray(data)
        flipped[min(a, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
        return bytes(flipped)
    return [data[:a], data[:a] + data[b:], data[:b] + data[a:], data[b:] + data[:b], data[a:]][kind]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["npy", "megatron", "fairseq", "nanoset"])
def test_any_damage_is_an_error_or_leaves_the_ids(tmp_path, kind, seed):
    """What no header or index contradicts is as long as before, and differs only where ids were changed."""
    rng = np.random.default_rng(seed)
    documents = [rng.integers(3, 100, rng.integers(1, 9)).tolist() for _ in range(6)]
    write = {
        "npy": lambda: write_npy(tmp_path / "a.npy", documents),
        "megatron": lambda: write_megatron(tmp_path / "a", documents, "int32"),
        "fairseq": lambda: write_megatron(tmp_path / "a", documents, fairseq=True),
        "nanoset": lambda: write_nanoset(tmp_path / "a.ds", documents, "uint32"),
    }
    source = write[kind]()
    ids_file = open_id_files([source], 100, None)[0].path
    refused = 0
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(150):
            path.write_bytes(damaged(whole, rng))
            try:
                (file,) = open_id_files([source], 100, None)
                found = list(segments(file, 0, _end(file), Separators(None, 2)))
            except DataError:
                refused += 1
                continue
            ids = np.concatenate([seg.ids for seg in found])
            right = np.concatenate(documents)
            assert len(ids) == len(right)
            if path != ids_file:
                assert ids.tolist() == right.tolist()
        path.write_bytes(whole)
    assert refused > 100


def _end(file):
    return file.ids.count if file.ends is None else file.ends.count
