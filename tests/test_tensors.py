"""One home for tensor files: the library's bytes out, and the one error for everything that is none."""

import json
import random
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from tests.hostile import BAD_JSON, no_files
from tttscale.errors import CheckpointError
from tttscale.tensors import Spec, check_finite, open_tensors, stream_tensors, write_tensors

TENSORS = {
    "weight": torch.arange(12.0).view(3, 4),
    "half": torch.tensor([1.5, -2.0]).half(),
    "bf16": torch.ones(3, dtype=torch.bfloat16),
    "double é": torch.tensor([0.1], dtype=torch.float64),
    "scalar": torch.tensor(3.0),
    "none": torch.zeros(0, 2),
}


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def read_all(path):
    """All tensors, or None where the file is refused with its name; anything else is a bug."""
    found = None
    with suppress_named(path), open_tensors(path) as file:
        found = {name: file.read(name).clone() for name in file.shapes}
    return found


@contextmanager
def suppress_named(path):
    problem = ""
    try:
        yield
    except CheckpointError as error:
        problem = str(error)
    assert not problem or problem.startswith(str(path))


def test_the_same_bytes_as_the_library_writes(tmp_path):
    write_tensors(tmp_path / "a", TENSORS)
    assert (tmp_path / "a").read_bytes() == save(TENSORS, metadata={"format": "pt"})
    with open_tensors(tmp_path / "a") as file:
        assert file.shapes == {name: tuple(t.shape) for name, t in TENSORS.items()}
        assert file.dtypes["bf16"] == "BF16"
        assert sum(file.sizes.values()) == sum(t.nbytes for t in TENSORS.values())
        assert all(torch.equal(file.read(name), t) for name, t in TENSORS.items())
        assert torch.equal(file.read_range("weight", 1, 3), TENSORS["weight"][1:3])


def test_one_tensor_at_a_time_gives_the_same_file(tmp_path):
    write_tensors(tmp_path / "a", TENSORS, {"of": "a model"})
    specs = {name: Spec(t.dtype, tuple(t.shape)) for name, t in TENSORS.items()}
    asked = []

    def read(name):
        asked.append(name)
        return TENSORS[name]

    stream_tensors(tmp_path / "b", specs, read, {"of": "a model"})
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert sorted(asked) == sorted(TENSORS)
    assert sum(spec.size_bytes for spec in specs.values()) == sum(
        t.nbytes for t in TENSORS.values()
    )


def test_a_tensor_that_cannot_be_read_leaves_no_file(tmp_path):
    def read(name):
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        stream_tensors(tmp_path / "b", {"a": Spec(torch.float32, (2,))}, read)
    assert list(tmp_path.iterdir()) == []


def test_texts_beside_the_tensors(tmp_path):
    said = {"of": "a model", "größe": "1"}
    write_tensors(tmp_path / "a", TENSORS, said)
    with safe_open(tmp_path / "a", framework="pt") as library:
        assert library.metadata() == {"format": "pt", **said}
        assert library.keys()
    with open_tensors(tmp_path / "a") as file:
        assert file.metadata == {"format": "pt", **said}
        assert file.shapes.keys() == TENSORS.keys()


def test_a_view_of_a_larger_tensor(tmp_path):
    values = torch.arange(12.0).view(3, 4).T
    write_tensors(tmp_path / "a", {"a": values, "b": values[1:, ::2].requires_grad_()})
    found = read_all(tmp_path / "a")
    assert torch.equal(found["a"], values)
    assert torch.equal(found["b"], values[1:, ::2])


HOSTILE = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "a header longer than the file": (1 << 20).to_bytes(8, "little") + b"{}",
    "a header without end": b"\xff" * 8 + b"{}",
    "a list": with_header([]),
    "an entry that is none": with_header({"a": 3}),
    "an entry without a shape": with_header({"a": {"dtype": "F32", "data_offsets": [0, 0]}}),
    "offsets behind the end": with_header({"a": entry(offsets=(0, 800), shape=(200,))}, b"\0" * 8),
    "offsets the wrong way": with_header({"a": entry(offsets=(8, 0))}, b"\0" * 8),
    "negative offsets": with_header({"a": entry(offsets=(-8, 0))}, b"\0" * 8),
    "overlapping": with_header({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
    "a hole": with_header({"a": entry(offsets=(8, 16))}, b"\0" * 16),
    "another size than its shape": with_header({"a": entry(shape=(3,))}, b"\0" * 8),
    "a shape that overflows": with_header({"a": entry(shape=(2**62, 8))}, b"\0" * 8),
    "a negative shape": with_header({"a": entry(shape=(-2,))}, b"\0" * 8),
    "a shape of text": with_header({"a": entry(shape=("2",))}, b"\0" * 8),
    "an unknown dtype": with_header({"a": entry(dtype="Q7")}, b"\0" * 8),
    "a dtype of numbers": with_header({"a": entry(dtype=7)}, b"\0" * 8),
    "more data than tensors": with_header({"a": entry()}, b"\0" * 9),
    "metadata of numbers": with_header({"__metadata__": {"a": 3}, "a": entry()}, b"\0" * 8),
    **{f"JSON: {name}": with_header(data) for name, data in BAD_JSON.items()},
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_tensor_file_is_the_one_error(content, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert read_all(path) is None


def test_what_is_no_file_is_not_waited_for(tmp_path):
    for path in no_files(tmp_path / "strange").values():
        assert read_all(path) is None
    assert read_all(tmp_path / "missing") is None


def test_hundreds_of_damaged_files(tmp_path):
    path, random_ = tmp_path / "a", random.Random(0)
    write_tensors(path, TENSORS)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    for turn in range(400):
        harmed = bytearray(whole)
        for _ in range(random_.randrange(1, 4)):
            at = random_.randrange(header if turn % 4 else len(harmed))
            harmed[at : at + random_.randrange(2)] = random_.randbytes(random_.randrange(3))
        path.write_bytes(harmed)
        read_all(path)


def test_a_file_that_grows_after_it_was_opened(tmp_path):
    path = tmp_path / "a"
    write_tensors(path, TENSORS)
    with open_tensors(path) as file:
        with path.open("ab") as more:
            more.write(b"\0" * 100)
        assert torch.equal(file.read("weight"), TENSORS["weight"])
    assert read_all(path) is None


def test_a_failed_write_leaves_what_stood_there(tmp_path):
    path = tmp_path / "a"
    write_tensors(path, TENSORS)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_tensors(path, {"a": torch.zeros(2, dtype=torch.complex64)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_values_that_are_not_finite_are_counted_and_named(tmp_path):
    values = torch.ones(4, 5)
    check_finite(tmp_path, "w", values, "Do this")
    check_finite(tmp_path, "w", values[:0], "Do this")
    values[1, 2], values[3, 4] = float("inf"), float("nan")
    expected = rf"^{tmp_path}: w holds 2 values of 20 .* the first, at \[1, 2\], is inf\)\. Do this"
    with pytest.raises(
        CheckpointError, match=expected.replace("(the", r"\(the").replace(" .* ", r" .*")
    ):
        check_finite(tmp_path, "w", values, "Do this")


def test_a_pointer_of_git_lfs_says_what_to_run(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n")
    with pytest.raises(CheckpointError, match="run git lfs pull"), open_tensors(path):
        pass
