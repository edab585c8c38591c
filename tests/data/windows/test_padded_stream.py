"""Where documents are placed so that each begins on a mini-batch boundary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.windows.test_window import numbered
from tttscale.data.windows.padded_stream import PaddedStream, pack_continuing, pack_whole

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=25)


@settings(max_examples=200, deadline=None)
@given(lengths=LENGTHS, length=st.integers(1, 50), block=st.integers(1, 12))
def test_whole_documents_go_where_next_fit_puts_them(lengths, length, block):
    """The same rule, one document at a time."""
    positions, window, offset = [], 0, 0
    for tokens in lengths:
        if offset and offset + tokens > length:
            window, offset = window + 1, 0
        positions.append(window * length + offset)
        crossed, offset = divmod(offset + tokens, length)
        window, offset = window + crossed, -(-offset // block) * block
    found = pack_whole(np.array(lengths), length, block)
    np.testing.assert_array_equal(found, positions)


@settings(max_examples=100, deadline=None)
@given(
    lengths=LENGTHS,
    length=st.integers(1, 50),
    block=st.integers(1, 12),
    place=st.sampled_from([pack_continuing, pack_whole]),
    data=st.data(),
)
def test_what_a_layout_locates(lengths, length, block, place, data):
    split = numbered(lengths)
    padded = place(np.array(lengths), length, block)
    layout = PaddedStream(split.document_starts, split.num_tokens, padded)
    assert (np.diff(padded) >= lengths[:-1]).all()
    position_of = np.arange(split.num_tokens) + np.repeat(padded - layout.raw[:-1], lengths)
    begin = data.draw(st.integers(0, layout.num_positions - 1))
    end = data.draw(st.integers(begin + 1, layout.num_positions + length))
    inside = np.flatnonzero((position_of >= begin) & (position_of < end))
    first, positions, is_last = layout.locate(begin, end)
    np.testing.assert_array_equal(first + np.arange(len(positions)), inside)
    np.testing.assert_array_equal(positions, position_of[inside] - begin)
    np.testing.assert_array_equal(is_last, np.isin(inside + 1, np.cumsum(lengths)))
    starts = padded[(padded >= begin) & (padded < end)]
    np.testing.assert_array_equal(layout.starts_between(begin, end), starts - begin)
    assert layout.tokens_before(end) == (position_of < end).sum()
