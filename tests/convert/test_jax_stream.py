"""Streams of ttt-lm-jax: its own files, and harmed ones, each refused with the record's name."""

import random
import tracemalloc

import msgpack
import pytest
import torch

from tests.convert.streams import MODELS, STATE, array, leaf, params, read, values, write
from tttscale.convert import jax_stream as module
from tttscale.convert.jax_stream import number, read_leaf, records
from tttscale.errors import CheckpointError

WTE = ["params", "params", "model", "wte", "embedding"]


def everything(path):
    """All arrays of a stream by their path; what is no array is left out."""
    found = {}
    with path.open("rb") as file:
        for record in records(path, file):
            if record.key[-1] not in ("step", "count"):
                found[record.key] = read_leaf(record, module.leaf(record, file), file)
    return found


def first(path):
    """The first record's array."""
    with path.open("rb") as file:
        record = next(records(path, file))
        return read_leaf(record, module.leaf(record, file), file)


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        everything(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    for word in words:
        assert word in message, message
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize("path", [*map(params, MODELS), STATE], ids=lambda path: path.name)
def test_arrays_are_those_that_a_library_reads(path):
    wanted = read(path)
    found = everything(path)
    assert len(found) == sum(pair[0][-1] not in ("step", "count") for pair in wanted)
    for key, value in wanted:
        if key[-1] in ("step", "count"):
            continue
        shape, dtype, data = leaf(value)
        tensor = found[tuple(key)]
        assert (tuple(tensor.shape), str(tensor.dtype)) == (shape, f"torch.{dtype}")
        assert values(tensor) == data


def test_a_train_state_has_a_step():
    with STATE.open("rb") as file:
        found = {record.key: record for record in records(STATE, file)}
        assert len(found) == 159
        assert number(found["step",], file) == 7
        assert number(found["opt_state", "1", "0", "count"], file) == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (msgpack.packb(12), 12),
        (msgpack.packb(-3), -3),
        (array((), "int32", (5).to_bytes(4, "little")), 5),
        (array((), "int64", (6).to_bytes(8, "little"), code=3), 6),
        (array((1,), "uint32", (7).to_bytes(4, "little")), 7),
    ],
)
def test_forms_of_a_number(tmp_path, value, expected):
    path = write(tmp_path / "s", [[["step"], value]])
    with path.open("rb") as file:
        assert number(next(records(path, file)), file) == expected


@pytest.mark.parametrize(
    "value",
    [
        msgpack.packb("7"),
        array((2,), "int32", bytes(8)),
        array((), "float32", bytes(4)),
        msgpack.packb(7) + b"\0",
        b"",
    ],
)
def test_no_number(tmp_path, value):
    path = write(tmp_path / "s", [[["step"], value]])
    with path.open("rb") as file, pytest.raises(CheckpointError, match=r"record 1 \(step\)"):
        number(next(records(path, file)), file)


def chunked(shape, parts, mark=True):
    """An array that flax has cut up."""
    tuples = [dict(enumerate(shape)), dict(enumerate(parts))]
    shape, chunks = ({str(i): value for i, value in one.items()} for one in tuples)
    return msgpack.packb({"__msgpack_chunked_array__": mark, "shape": shape, "chunks": chunks})


def part(numbers):
    data = values(torch.tensor(numbers, dtype=torch.float32))
    return msgpack.ExtType(1, msgpack.packb(((len(numbers),), "float32", data)))


def test_large_arrays_are_in_parts(tmp_path):
    value = chunked((2, 3), [part([1.0, 2.0, 3.0, 4.0]), part([5.0, 6.0])])
    path = write(tmp_path / "s", [[["a"], value]])
    assert torch.equal(first(path), torch.arange(1.0, 7.0).view(2, 3))


@pytest.mark.parametrize(
    "value",
    [
        chunked((2, 3), [part([1.0, 2.0])]),
        chunked((2, 3), []),
        chunked((2, 3), [b"x"]),
        chunked((1, 2), [part([1.0, 2.0])], mark=False),
        msgpack.packb({"shape": {}, "chunks": {}}),
        msgpack.packb({"a": 1, "b": 2, "c": 3}),
        msgpack.packb({"__msgpack_chunked_array__": True, "shape": {"1": 2}, "chunks": {}}),
    ],
)
def test_parts_that_make_up_nothing(tmp_path, value):
    refused(write(tmp_path / "s", [[["a"], value]]), "record 1 (a)")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (array((2, 3), "float32", bytes(20)), "its shape is [2, 3], but its values have 20 bytes"),
        (array((2**40, 2**40), "float32", bytes(8)), "its values have 8 bytes"),
        (array((-2, -1), "float32", bytes(8)), "its shape is [-2, -1]"),
        (array((1,) * 9, "float32", bytes(4)), "9 dimensions"),
        (array((1,), "int8", bytes(1)), "its values are 'int8'"),
        (array((1,), "object", bytes(8)), "its values are 'object'"),
        (array((1,), "float32", bytes(4), code=3), "it is no array, but ext 3"),
        (array((1,), "float32", bytes(4)) + b"\0", "1 bytes are left over"),
        (msgpack.packb(msgpack.ExtType(1, msgpack.packb(((1,), "float32")))), "not shape, dtype"),
        (msgpack.packb([1]), "it is no array, but array"),
        (b"\x80\x04\x95", "a map of 0"),
        (b"", "0 are left"),
    ],
)
def test_values_that_are_no_arrays(tmp_path, value, words):
    refused(write(tmp_path / "s", [[WTE, value]]), f"record 1 ({'/'.join(WTE)})", words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x93", "record 1 is damaged: it is no pair"),
        (b"\x92\x90\xc4\x00", "its path has 0 names"),
        (b"\x92\xdd\xff\xff\xff\xff", "its path has 4,294,967,295 names"),
        (b"\x92\x91\xdb\xff\xff\xff\xff", "a name of 4,294,967,295 bytes"),
        (b"\x92\x91\xa1a\xc6\xff\xff\xff\xff", "record 1 (a) is damaged: it needs 4,294,967,295"),
        (b"\x92\x91\xa1a\xa1b", "expected bin"),
        (b"", "is empty"),
        (b"\x92\x91\xa4\x1b[31\xc4\x00", "record 1 ('\\x1b[31')"),
    ],
)
def test_no_records(tmp_path, data, words):
    (tmp_path / "s").write_bytes(data)
    refused(tmp_path / "s", words)


def test_a_file_that_is_cut_names_the_record(tmp_path):
    whole, path = STATE.read_bytes(), tmp_path / "s"
    keys = [pair[0] for pair in read(STATE)]
    sizes = [len(msgpack.packb(pair)) for pair in read(STATE)]
    ends = {sum(sizes[: i + 1]) for i in range(len(sizes))}
    random_ = random.Random(0)
    for size in [1, 5, len(whole) - 1, *(random_.randrange(1, len(whole)) for _ in range(40))]:
        path.write_bytes(whole[:size])
        if size in ends:
            continue
        number_ = sum(end <= size for end in ends) + 1
        named = f"record {number_}"
        refused(path, named, "are left")
        assert keys[number_ - 1]


def test_other_bytes_before_values_never_go_unseen_as_another_error(tmp_path):
    """Whatever a bit flip makes of a length: the arrays of the file, or one error with its name."""
    whole, path = params("linear_base").read_bytes(), tmp_path / "s"
    random_ = random.Random(0)
    for _ in range(300):
        harmed = bytearray(whole)
        harmed[random_.randrange(400 if random_.random() < 0.5 else len(harmed))] ^= (
            1 << random_.randrange(8)
        )
        path.write_bytes(harmed)
        try:
            everything(path)
        except CheckpointError as error:
            assert str(error).startswith(str(path))  # noqa: PT017


def test_no_number_in_a_file_takes_memory(tmp_path):
    paths = []
    for i, size in enumerate((2**31, 2**32 - 1)):
        path = tmp_path / str(i)
        path.write_bytes(b"\x92\x91\xa1a\xc6" + size.to_bytes(4, "big") + bytes(100))
        paths.append(path)
    huge = msgpack.packb(((2**40,), "float32", b""))
    paths.append(write(tmp_path / "s", [[["a"], msgpack.packb(msgpack.ExtType(1, huge))]]))
    tracemalloc.start()
    for path in paths:
        refused(path, "record 1 (a)")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
