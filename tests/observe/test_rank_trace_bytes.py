"""A rank's trace on its way to rank 0."""

import zlib

import pytest

from tests.traces import make_trace
from tttscale.observe.rank_trace_bytes import from_bytes, to_bytes
from tttscale.observe.spans import RankTrace


@pytest.mark.parametrize("rank", [*make_trace(steps=2, hosts=2).ranks, RankTrace(5)])
def test_arrives_as_it_was(rank):
    assert from_bytes(to_bytes(rank)) == rank


@pytest.mark.parametrize("data", [b"", b"x", zlib.compress(b"{"), zlib.compress(b"[NaN]")])
def test_anything_else_is_refused(data):
    with pytest.raises(ValueError):
        from_bytes(data)
