"""The byte tokenizer as a tokenizer.json: the library that others use gives the same ids and texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tttscale.data import ByteTokenizer, load_tokenizer
from tttscale.data.tokenizers.byte_definition import (
    byte_definition,
    byte_vocab,
    is_byte_definition,
)
from tttscale.data.tokenizers.tokenizer import JsonTokenizer

WITH, WITHOUT = (Tokenizer.from_buffer(byte_definition(bos)) for bos in (True, False))
OURS = JsonTokenizer(byte_definition(True), "test")


@given(st.text())
def test_ids_and_texts_are_those_of_bytes(text):
    codec = ByteTokenizer()
    ids = codec.encode(text).tolist()
    assert OURS.encode(text).tolist() == ids
    WITHOUT.encode_special_tokens = True
    assert WITHOUT.encode(text).ids == ids
    assert OURS.decode([256, *ids, 257]) == codec.decode(ids) == text


@given(st.binary())
def test_ids_that_are_no_text(data):
    assert OURS.decode(data) == ByteTokenizer().decode(data)


def test_documents_begin_with_bos():
    assert WITH.encode("ab").ids == [256, 97, 98]
    assert WITH.encode("ab", add_special_tokens=False).ids == [97, 98]
    assert WITH.encode("a", "b").ids == [256, 97, 98]
    assert WITHOUT.encode("ab").ids == [97, 98]


def test_it_loses_nothing_and_is_found_by_the_usual_names():
    assert OURS._fidelity.keeps_all
    assert (OURS.vocab_size, OURS.bos_id, OURS.eos_id, OURS.pad_id) == (259, 256, 257, 258)
    assert OURS.vocab() == byte_vocab() == WITH.get_vocab()


@pytest.mark.parametrize("bos", [True, False])
def test_it_is_known_when_it_is_read(tmp_path, bos):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(byte_definition(bos))
    found = load_tokenizer(str(path))
    assert isinstance(found, ByteTokenizer)
    assert found.digest == ByteTokenizer.digest
    assert found.encode(b"\xff").tolist() == [255]
    assert not is_byte_definition(byte_definition(bos) + b" ")
    named = load_tokenizer(str(path), {"bos": "none"})
    assert (named.bos_id, named.eos_id) == (None, 257)
