"""Made sequences read alike in any pieces, and ask for what stands in them."""

import numpy as np
import pytest

from tttscale.data import ArraySplit, ByteTokenizer
from tttscale.errors import DataError
from tttscale.evaluate.made_text import (
    Excerpt,
    MadeSequence,
    Repeated,
    encode,
    encode_answers,
    symbols,
)


def test_a_sequence_reads_alike_in_any_pieces():
    hay = Repeated(np.arange(7))
    made = MadeSequence(
        hay, [(3, np.array([90, 91, 92])), (18, np.array([80, 81]))], np.array([4, 18, 20])
    )
    whole = made.chunk(0, 20)
    assert whole.ids.tolist()[:8] == [0, 1, 2, 90, 91, 92, 6, 0]
    assert whole.ids.tolist()[17:] == [3, 80, 81]
    expected = np.full(20, -100)
    expected[[3, 17, 19]] = 91, 80, 6  # position 20 is read as a label only
    assert whole.labels.tolist() == expected.tolist()
    for size in (1, 3, 8):
        pieces = [made.chunk(at, min(at + size, 20)) for at in range(0, 20, size)]
        assert np.concatenate([p.ids for p in pieces]).tolist() == whole.ids.tolist()
        assert np.concatenate([p.labels for p in pieces]).tolist() == whole.labels.tolist()


def test_an_excerpt_is_the_stores_text():
    split = ArraySplit([np.arange(100)])
    assert Excerpt(split, 40).read(2, 5).tolist() == [42, 43, 44]


class Merging(ByteTokenizer):
    """Merges a space with the digit after it, as BPE does, and ": " with what follows."""

    def encode(self, text):
        ids, data = [], text.encode() if isinstance(text, str) else text
        at = 0
        while at < len(data):
            merged = data[at : at + 1] == b" " and data[at + 1 : at + 2].isdigit()
            ids.append(500 + data[at + 1] if merged else data[at])
            at += 2 if merged else 1
        return np.array(ids)


def test_answers_are_encoded_with_their_question():
    common, answers = encode_answers(Merging(), "It is ", ["12", "13", "7"])
    assert bytes(common.tolist()) == b"It is"  # the space belongs to the answers
    assert [a.tolist() for a in answers] == [[549, 50], [549, 51], [555]]
    common, answers = encode_answers(ByteTokenizer(), "It is", [" 12", " 13"])
    assert bytes(common.tolist()) == b"It is"
    assert [bytes(a.tolist()) for a in answers] == [b" 12", b" 13"]


def test_symbols_are_single_tokens():
    assert symbols(ByteTokenizer(), "ab").tolist() == [97, 98]

    class Double(ByteTokenizer):
        def encode(self, text):
            return np.array([1, 2])

    with pytest.raises(DataError, match="no single token for 'a'"):
        symbols(Double(), "ab")


def test_encoding_is_int64():
    assert encode(ByteTokenizer(), "hä").dtype == np.int64
