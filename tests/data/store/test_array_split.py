"""A split in memory reads as one on disk does."""

import numpy as np
import pytest

from tttscale.data.store.array_split import ArraySplit


def test_documents_stand_one_after_the_other():
    split = ArraySplit([[5, 6], np.array([7], np.uint16), [8, 9, 10]], filler=3, text_bytes=11)
    assert (split.num_tokens, split.filler, split.text_bytes) == (6, 3, 11)
    assert split.document_starts.tolist() == [0, 2, 3]
    assert split.document_starts.dtype == np.uint64
    assert split.read(1, 5).tolist() == [6, 7, 8, 9]
    assert split.read(4, 99).tolist() == [9, 10]
    assert split.damaged_between(0, 6) == []


def test_what_was_read_may_be_changed():
    split = ArraySplit([[5, 6]])
    split.read(0, 2)[:] = 0
    assert split.read(0, 2).tolist() == [5, 6]


def test_an_empty_document_has_no_start():
    with pytest.raises(AssertionError, match="a document is empty"):
        ArraySplit([[1], []])
