"""A step in closed form, beside the schedule itself."""

import pytest

from tests.traces import make_trace
from tttscale.observe.overlap import analyse
from tttscale.observe.wave import Wave


@pytest.mark.parametrize("layout", ["striped", "contiguous"])
@pytest.mark.parametrize(("ranks", "chunks"), [(2, 8), (4, 4), (4, 6), (6, 36), (8, 5)])
def test_the_closed_form_is_close_to_the_schedule(ranks, chunks, layout):
    trace = make_trace(ranks, chunks, 4, kept=0, layout=layout)
    found = analyse(trace)
    wave = Wave.of(trace, found)
    sweeps = found.mean("seconds") - found.mean("outside_seconds")
    assert wave.seconds() == pytest.approx(sweeps, rel=0.12)
    assert wave.striped().seconds() <= wave.seconds() * 1.001


def test_a_cut_says_what_a_shorter_chunk_would_take():
    trace = make_trace(4, 5, 2, kept=0)
    wave = Wave.of(trace, analyse(trace))
    pieces, gain = wave.best_cut()
    assert pieces in (2, 4, 8)
    assert gain == wave.seconds() - wave.cut(pieces).seconds()
    assert wave.cut(pieces).chunks == 5 * pieces
    assert wave.cut(pieces).chunk_seconds * pieces == pytest.approx(wave.chunk_seconds)


def test_many_chunks_are_not_cut():
    trace = make_trace(2, 64, 2)
    assert Wave.of(trace, analyse(trace)).best_cut() == (1, 0.0)


def test_a_rank_alone_has_no_wave():
    trace = make_trace(1, 4, 2)
    assert Wave.of(trace, analyse(trace)) is None
