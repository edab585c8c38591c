"""Traces as the page carries them; that decode.js reads them is seen in test_assemble.py."""

import base64
import zlib

import numpy as np
import pytest

from tests.traces import make_trace
from tttscale.profile.page.pack import MAX_ARROWS, packed

OF_A_RANK = 14
"""Columns: six of spans, six of reads, two of memory."""


def columns(pack):
    """As decode.js takes them, before sums."""
    data, found, at = zlib.decompress(base64.b64decode(pack["data"])), [], 0
    for size in pack["columns"]:
        planes = np.frombuffer(data[at : at + 4 * size], np.uint8).reshape(4, size)
        found.append(np.ascontiguousarray(planes.T).view("<i4").ravel())
        at += 4 * size
    assert at == len(data)
    return found


def test_columns_give_the_spans_again():
    trace = make_trace(3, 6, 2, steps=2)
    pack = packed(trace)
    tick, found = pack["tick_seconds"], columns(pack)
    assert pack["cut"] == ""
    for place, rank in enumerate(trace.ranks):
        gaps, lengths, kinds, *_, layers = found[OF_A_RANK * place :][:6]
        ends = np.cumsum(gaps + lengths)
        assert ends * tick == pytest.approx([s.end for s in rank.spans], abs=1e-8)
        assert (ends - lengths) * tick == pytest.approx([s.begin for s in rank.spans], abs=1e-8)
        names = [tuple(pack["kinds"][kind]) for kind in kinds]
        assert names == [(s.activity, s.run, s.part) for s in rank.spans]
        assert np.cumsum(layers).tolist() == [s.layer for s in rank.spans]
        memory = found[OF_A_RANK * place + 13]
        assert np.cumsum(memory).tolist() == [size // 1024 for _, size in rank.memory]
    assert len(found[-1]) == pack["arrows"] > 0


def test_long_traces_keep_their_resolution():
    trace = make_trace(1, 2, 1)
    trace.ranks[0].spans = [
        s._replace(begin=s.begin * 1e6, end=s.end * 1e6) for s in trace.ranks[0].spans
    ]
    pack = packed(trace)
    assert pack["ticks"] <= 1 << 30
    assert pack["ticks"] * pack["tick_seconds"] == pytest.approx(trace.ranks[0].spans[-1].end)


def test_a_large_trace_is_cut_and_says_so():
    trace = make_trace(4, 32, 4, steps=3)
    small = packed(trace, max_spans=1000)
    assert "steps 2 to 3 left out" in small["cut"]
    assert "joined" in small["cut"]
    assert sum(small["columns"][::OF_A_RANK][:4]) <= 1000
    assert small["arrows"] <= MAX_ARROWS


def test_of_nothing():
    trace = make_trace()
    for rank in trace.ranks:
        rank.spans, rank.reads, rank.steps, rank.memory = [], [], [], []
    assert packed(trace)["ticks"] == 0
