"""Heads of values against a library that writes them; no length is believed before it is compared."""

import io

import msgpack
import pytest

from tttscale.convert.msgpack_heads import Cursor, Head


def cursor(data):
    return Cursor(io.BytesIO(data), 0, len(data))


NUMBERS = [0, 1, 127, 128, 255, 256, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**64 - 1]
NUMBERS += [-1, -32, -33, -128, -129, -(2**15), -(2**15) - 1, -(2**31), -(2**31) - 1, -(2**63)]
LENGTHS = [0, 1, 15, 16, 31, 32, 255, 256, 2**16 - 1, 2**16]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers(number):
    place = cursor(msgpack.packb(number))
    assert place.head() == Head("int", number)
    place.finish()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("kind", "make"),
    [("str", lambda n: "x" * n), ("bin", bytes), ("ext", lambda n: msgpack.ExtType(7, bytes(n)))],
)
def test_what_has_a_length_in_bytes(kind, make, length):
    place = cursor(msgpack.packb(make(length)))
    assert place.head() == Head(kind, length, 7 if kind == "ext" else 0)
    place.region(length)
    place.finish()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("kind", "make"), [("array", lambda n: [0] * n), ("map", lambda n: dict.fromkeys(range(n), 0))]
)
def test_what_has_a_length_in_items(kind, make, length):
    assert cursor(msgpack.packb(make(length))).head() == Head(kind, length)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_extensions_of_fixed_sizes(size):
    assert cursor(msgpack.packb(msgpack.ExtType(3, bytes(size)))).head() == Head("ext", size, 3)


def test_texts():
    assert cursor(msgpack.packb("größe")).text(10) == "größe"
    with pytest.raises(ValueError, match="a name of 11 bytes"):
        cursor(msgpack.packb("x" * 11)).text(10)
    with pytest.raises(ValueError, match="not UTF-8"):
        cursor(b"\xa2\xff\xfe").text(10)
    with pytest.raises(ValueError, match="expected str at byte 0, found bin"):
        cursor(msgpack.packb(b"x")).text(10)


@pytest.mark.parametrize("value", [None, 1.5])
def test_types_that_do_not_occur(value):
    with pytest.raises(ValueError, match="begins no value that occurs here"):
        cursor(msgpack.packb(value)).head()


def test_regions_have_ends():
    place = cursor(msgpack.packb([1, b"abc"]))
    assert place.expect("array") == 2
    assert place.expect("int") == 1
    inside = place.region(place.expect("bin"))
    place.finish()
    assert inside.take(2) == b"ab"
    with pytest.raises(ValueError, match="1 bytes are left over"):
        inside.finish()
    with pytest.raises(ValueError, match="needs 2 bytes more, and 1 are left"):
        inside.take(2)


def test_a_number_of_bytes_takes_none():
    place = cursor(b"\xc6\xff\xff\xff\xff")
    with pytest.raises(ValueError, match=r"needs 4,294,967,295 bytes more, and 0 are left"):
        place.region(place.expect("bin"))


@pytest.mark.parametrize("value", [2**32, "x" * 300, b"y" * 300, [0] * 20, msgpack.ExtType(1, b"")])
def test_a_head_that_is_cut(value):
    head = msgpack.packb(value)[:2]
    for size in range(len(head)):
        with pytest.raises(ValueError, match="are left"):
            cursor(head[:size]).head()
