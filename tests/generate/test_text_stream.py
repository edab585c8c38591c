"""Streamed text is the decoded whole: in whole characters, and up to the first stop string."""

import random

import pytest

from tttscale.data.tokenizers.tokenizer import ByteTokenizer
from tttscale.generate.text_stream import Pieces, TextStream

BYTES = ByteTokenizer()


def stream(data, *stops):
    reader, pieces = TextStream(BYTES, stops), []
    for byte in data:
        pieces.append(reader.add(byte))
        if reader.is_stopped:
            break
    return [*pieces, reader.rest()], reader


def test_characters_come_whole():
    pieces, _ = stream("a€ü😀".encode())
    assert pieces == ["a", "", "", "€", "", "ü", "", "", "", "😀", ""]


def test_what_never_becomes_a_character_is_shown_at_the_end():
    pieces, _ = stream(b"a\xe2\x82")
    assert pieces == ["a", "", "", "\ufffd"]


def test_any_bytes_are_the_decoded_whole():
    draw = random.Random(0)
    for _ in range(200):
        data = bytes(draw.choices([*b"ab", *"€😀".encode(), 0xFF, 0x80], k=draw.randrange(30)))
        pieces = Pieces(BYTES)
        found = "".join(map(pieces.add, data)) + pieces.rest()
        assert found == data.decode(errors="replace")


def test_special_tokens_have_no_text():
    pieces = Pieces(BYTES)
    assert [pieces.add(i) for i in (256, 97, 258, 98)] == ["", "a", "", "b"]


class Words:
    """Joins words by spaces, and so treats the first of all in another way."""

    name, eos_id = "words", None

    def decode(self, ids):
        return " ".join(f"w{i}" for i in ids)


def test_decoders_that_treat_the_first_token_in_another_way():
    pieces = Pieces(Words())
    assert [pieces.add(i) for i in (1, 2, 3)] == ["w1", " w2", " w3"]


@pytest.mark.parametrize(
    ("text", "stops", "shown", "stopped"),
    [
        ("one. two", ["."], "one", True),
        ("one END two", ["END"], "one ", True),
        ("one EN", ["END"], "one EN", False),
        ("EENDx", ["END"], "E", True),
        ("abcabd", ["abd", "zz"], "abc", True),
        ("x\n\ny", ["\n\n"], "x", True),
        ("ababx", ["abx", "bx"], "ab", True),
        ("nothing", [], "nothing", False),
    ],
)
def test_stop_strings(text, stops, shown, stopped):
    pieces, reader = stream(text.encode(), *stops)
    assert "".join(pieces) == shown
    assert reader.is_stopped is stopped


def test_only_what_may_be_a_stop_is_held_back():
    pieces, _ = stream(b"a EN x", "END")
    assert pieces == ["a", " ", "", "", "EN ", "x", ""]


class Counting(ByteTokenizer):
    """Counts the tokens that are decoded."""

    def __init__(self):
        super().__init__()
        self.decoded = 0

    def decode(self, ids):
        self.decoded += len(ids)
        return super().decode(ids)


@pytest.mark.parametrize("token", [0xFF, 0xC3, 0x80, BYTES.eos_id])
def test_tokens_without_an_end_of_a_character_take_linear_time_and_are_shown(token):
    tokenizer, count = Counting(), 3000
    stream = TextStream(tokenizer, ["stop"])
    text = "".join(stream.add(token) for _ in range(count))
    assert tokenizer.decoded < 300 * count
    wanted = BYTES.decode([token] * count)
    assert len(wanted) - len(text) <= 40
    text += "".join(map(stream.add, "größer€😀".encode())) + stream.rest()
    assert text == BYTES.decode([*[token] * count, *"größer€😀".encode()])
