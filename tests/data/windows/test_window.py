import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tttscale.data import ArraySplit, Windows, open_store
from tttscale.errors import DataError

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=25)
FILLER = 10**6


def numbered(lengths) -> ArraySplit:
    """Documents whose tokens are their own offsets in the stream."""
    ends = np.cumsum(lengths)
    documents = [np.arange(e - n, e) for e, n in zip(ends, lengths, strict=True)]
    return ArraySplit(documents, filler=FILLER)


def windows_of(split, length, block, mode) -> Windows | None:
    try:
        return Windows(split, length, seed=0, mini_batch_tokens=block, documents=mode)
    except DataError:
        return None


def whole(windows, number):
    return windows.window(number).chunk(0, windows.sequence_tokens)


def padding(chunk):
    return np.zeros(len(chunk.ids), bool) if chunk.padded is None else chunk.padded


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, length=st.integers(1, 50))
def test_ignoring_windows_tile_the_stream(lengths, length):
    split = numbered(lengths)
    windows = windows_of(split, length, 4, "ignore")
    if windows is None:
        assert split.num_tokens <= length
        return
    chunks = [whole(windows, i) for i in range(windows.count)]
    ids = np.concatenate([chunk.ids for chunk in chunks])
    np.testing.assert_array_equal(ids, np.arange(windows.count * length))
    np.testing.assert_array_equal(np.concatenate([c.labels for c in chunks]), ids + 1)
    assert split.num_tokens - 1 - len(ids) < length
    assert all(chunk.starts == () and chunk.padded is None for chunk in chunks)
    assert sorted(windows.sequence(i).number for i in range(windows.count)) == [
        *range(windows.count)
    ]


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, length=st.integers(1, 50), block=st.integers(1, 12))
def test_resetting_windows_hold_the_documents_in_order(lengths, length, block):
    split = numbered(lengths)
    windows = windows_of(split, length, block, "reset")
    if windows is None:
        return
    chunks = [whole(windows, i) for i in range(windows.count)]
    ids = np.concatenate([chunk.ids for chunk in chunks])
    labels = np.concatenate([chunk.labels for chunk in chunks])
    padded = np.concatenate([padding(chunk) for chunk in chunks])
    np.testing.assert_array_equal(ids[~padded], np.arange((~padded).sum()))
    last = np.isin(ids, np.cumsum(lengths) - 1)
    np.testing.assert_array_equal(labels, np.where(padded | last, -100, ids + 1))
    assert (ids[padded] == FILLER).all()
    firsts = set(split.document_starts.tolist())
    for chunk in chunks:
        assert all(start % block == 0 and start > 0 for start in chunk.starts)
        begins = [i for i in range(1, length) if not padding(chunk)[i] and chunk.ids[i] in firsts]
        assert list(chunk.starts) == begins
        assert not padding(chunk)[0]
        assert (chunk.padded is None) == (not padding(chunk).any())


@settings(max_examples=200, deadline=None)
@given(lengths=LENGTHS, length=st.integers(1, 50), block=st.integers(1, 12))
def test_whole_documents_lose_nothing_and_are_not_cut(lengths, length, block):
    split = numbered(lengths)
    windows = windows_of(split, length, block, "whole")
    assert windows is not None  # one token is enough
    chunks = [whole(windows, i) for i in range(windows.count)]
    tokens = [chunk.ids[~padding(chunk)] for chunk in chunks]
    np.testing.assert_array_equal(np.concatenate(tokens), np.arange(split.num_tokens))
    assert windows.fill == split.num_tokens / (windows.count * length)
    ends = np.cumsum(lengths)
    for chunk, held in zip(chunks, tokens, strict=True):
        is_padded = padding(chunk)
        assert not is_padded[0]
        expected = np.where(is_padded | np.isin(chunk.ids, ends - 1), -100, chunk.ids + 1)
        np.testing.assert_array_equal(chunk.labels, expected)
        first, last = np.searchsorted(ends, held[[0, -1]], "right")
        for document in range(first, last + 1):
            inside = np.flatnonzero(
                ~is_padded & (ends.searchsorted(chunk.ids, "right") == document)
            )
            assert len(inside) == lengths[document] or lengths[document] > length
            assert inside[0] % block == 0
            assert inside[-1] - inside[0] + 1 == len(inside)  # no gap
            assert inside[0] in chunk.starts or document == first


@settings(max_examples=100, deadline=None)
@given(
    lengths=LENGTHS,
    length=st.integers(1, 50),
    block=st.integers(1, 12),
    mode=st.sampled_from(["ignore", "reset", "whole"]),
    cuts=st.lists(st.integers(1, 49), max_size=5),
)
def test_any_cut_into_chunks_equals_the_window(lengths, length, block, mode, cuts):
    windows = windows_of(numbered(lengths), length, block, mode)
    if windows is None:
        return
    borders = sorted({0, length, *(cut for cut in cuts if cut < length)})
    pairs = list(pairwise(borders))
    for number in range(windows.count):
        full = whole(windows, number)
        parts = [windows.window(number).chunk(a, b) for a, b in pairs]
        np.testing.assert_array_equal(np.concatenate([p.ids for p in parts]), full.ids)
        np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), full.labels)
        np.testing.assert_array_equal(np.concatenate([padding(p) for p in parts]), padding(full))
        moved = [a + s for (a, _), p in zip(pairs, parts, strict=True) for s in p.starts]
        assert moved == list(full.starts)


class Counting(ArraySplit):
    """Remembers which ranges were read."""

    def __init__(self, documents):
        super().__init__(documents)
        self.reads = []

    def read(self, begin, end):
        self.reads.append((begin, end))
        return super().read(begin, end)


def test_a_chunk_reads_its_tokens_and_one_label():
    split = Counting([range(10), range(25), range(5), range(60)])
    Windows(split, 40, 0, 4).window(1).chunk(8, 16)
    assert split.reads == [(48, 57)]
    split.reads.clear()
    window = Windows(split, 40, 0, 4, "reset").window(0)  # documents at 0, 12, 40, 48
    for begin, end in ((0, 8), (8, 16), (10, 12), (32, 40)):
        window.chunk(begin, end)
    assert split.reads == [(0, 9), (8, 15), (30, 35)]  # [10, 12) is padding: nothing to read


def test_document_modes_on_a_store(store):
    split = open_store(store).split("train")
    windows = Windows(split, 500, seed=1, mini_batch_tokens=16, documents="reset")
    tokens = [c.ids[~padding(c)] for c in (whole(windows, i) for i in range(windows.count))]
    read = np.concatenate(tokens)
    np.testing.assert_array_equal(read, split.read(0, len(read)))
    assert windows.fill == len(read) / (500 * windows.count)


@pytest.mark.parametrize(("mode", "longest"), [("ignore", 29), ("reset", 34)])
def test_a_split_shorter_than_a_window(mode, longest):
    split = numbered([10, 10, 10])
    message = rf"data\.sequence_length 99: the split has 30 tokens.*longest possible is {longest}"
    with pytest.raises(DataError, match=message):
        Windows(split, 99, 0, 4, mode)
    Windows(split, longest, 0, 4, mode)


def test_whole_documents_of_an_empty_split():
    empty = ArraySplit([[0]])
    empty.num_tokens, empty.document_starts = 0, np.array([], np.uint64)
    with pytest.raises(DataError, match="the split has 0 tokens, too few for one window"):
        Windows(empty, 8, 0, 4, "whole")


def test_fill():
    split = numbered([10, 10, 10])
    assert Windows(split, 7, 0, 4).fill == 1
    assert Windows(split, 17, 0, 4, "reset").fill == (10 + 5 + 5 + 9) / 34
    assert Windows(split, 17, 0, 4, "whole").fill == 30 / 51


def test_importing_loads_neither_torch_nor_zarr():
    probe = "import sys, tttscale.data; print({'torch', 'zarr', 'tokenizers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True)
    assert found.stdout.strip() == b"set()"
