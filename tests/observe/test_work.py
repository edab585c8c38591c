"""The slowest rank and the serial chain."""

import random

import pytest

from tests.observe.by_hand import send, trace, wait, work
from tests.traces import make_trace
from tttscale.observe.overlap import analyse
from tttscale.observe.spans import RankTrace, StepMark, Trace


def test_a_straggler_is_named_with_its_factor():
    found = analyse(make_trace(4, 16, 3, slow={2: 1.5}))
    assert found.straggler.rank == 2
    assert found.straggler.factor == pytest.approx(1.5, rel=0.02)
    assert found.steps[0].straggler.rank == 2
    compute = found.steps[0].ranks[2].compute_seconds
    assert found.straggler.seconds == pytest.approx(compute / 3, rel=0.05)


@pytest.mark.parametrize("chunks", [5, 7, 9])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_more_chunks_or_kept_ones_make_no_straggler(chunks, kept):
    """A rank that has twice the chunks is not slow, nor is one whose only chunk is not recomputed."""
    assert analyse(make_trace(4, chunks, 3, kept=kept)).straggler is None
    assert analyse(make_trace(2, 3, 2, kept=kept)).straggler is None


def test_a_short_last_chunk_makes_no_straggler():
    def rank(seconds, chunk):
        return [work(0, seconds, chunk=chunk)]

    facts = dict(chunks=2, chunk_tokens=64)
    whole = trace(rank(4, 0), rank(2, 1), sequence_tokens=128, **facts)
    assert analyse(whole).straggler.rank == 0
    short = trace(rank(4, 0), rank(2, 1), sequence_tokens=96, **facts)
    assert analyse(short).straggler is None


def test_noise_makes_no_straggler():
    rng = random.Random(5)
    for _ in range(20):
        tracks = []
        for rank in range(3):
            now, spans = 0.0, []
            for chunk in range(rank, 12, 3):
                end = now + rng.lognormvariate(0, 0.2)
                spans.append(work(now, end, chunk=chunk))
                now = end
            tracks.append(spans)
        assert analyse(trace(*tracks, end=60.0)).straggler is None


def test_a_rank_that_is_slow_in_some_steps_only_is_no_straggler():
    def found(slow_steps):
        marks = [StepMark(step, 10 * step, 10 * step + 9) for step in range(4)]
        ranks = []
        for rank in range(2):
            spans = []
            for mark in marks:
                seconds = 2 if rank == 0 and mark.step in slow_steps else 1
                for chunk in range(rank, 4, 2):
                    begin = mark.begin + 4 * (chunk // 2)
                    spans.append(work(begin, begin + seconds, chunk=chunk))
            ranks.append(RankTrace(rank, steps=marks, spans=spans))
        return analyse(Trace("measured", ranks)).straggler

    assert found({0, 1, 2, 3}).rank == 0
    assert found({0, 1, 3}).rank == 0
    assert found({0, 1}) is None
    assert found({2}) is None


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_chain_is_all_advances_of_a_layer(kept):
    """What is computed again is no part of it, and one rank hands nothing over."""
    alone = analyse(make_trace(1, 8, 3, kept=kept)).steps[0].chain
    assert alone.seconds == alone.advance_seconds
    assert alone.advance_seconds == pytest.approx(8 * 60e-6 * (1 + 2.1), rel=0.03)
    assert alone.crossings == 0
    shared = analyse(make_trace(4, 8, 3, kept=kept)).steps[0].chain
    assert shared.crossings == 2 * 7
    wire = shared.seconds - shared.advance_seconds
    assert wire == pytest.approx(14 * 34e-6, rel=0.05)
    assert 2 * wire / 14 == pytest.approx(shared.wire_seconds, rel=0.01)
    assert 2 * wire / 14 <= shared.wire_seconds  # a message may be faster than usual


def test_a_layer_that_hands_nothing_over_is_no_chain():
    """Its chunks are independent of each other, however many there are."""
    spans = [[], []]
    for chunk in range(4):
        rank = chunk % 2
        arrived = wait(chunk - 0.25, chunk, chunk) if chunk else None
        spans[rank] += [*filter(None, [arrived]), work(chunk, chunk + 0.25, chunk=chunk)]
        spans[rank] += [send(chunk + 0.25, chunk + 0.25, chunk)] * (chunk < 3)
        spans[rank] += [work(chunk + 0.25, chunk + 1, chunk=chunk, layer=1)]
    found = analyse(trace(*spans)).steps[0].chain
    assert found.layer == 0
    assert found.advance_seconds == pytest.approx(4 * 0.25)
