"""Bounds of a step by hand; that no step is faster is in plan/test_bounds.py, for any schedule."""

import pytest

from tests.observe.by_hand import send, trace, wait, work
from tttscale.observe.hand_overs import hand_overs
from tttscale.observe.least_time import least_seconds, traced_least_seconds
from tttscale.observe.span_table import span_table


def test_a_long_ramp_counts_with_its_own_share_only():
    assert least_seconds(8.0, [0.0, 3.0], 1.0) == 5.5
    assert least_seconds(8.0, [0.0, 3.0], 7.0) == 7.0


def bounds(*tracks, work_seconds=0.0):
    table = span_table(trace(*tracks, end=30.0))
    return traced_least_seconds(table, hand_overs(table), range(len(tracks)), work_seconds)


def two_ranks(first_wire, second_wire=1.0):
    """Chunks 0 and 2 on rank 0, chunk 1 on rank 1; forward only, and then chunk 2's readout."""
    one, two = 3 + first_wire, 4 + first_wire + second_wire
    return (
        [
            *(work(0, 2, "project"), work(2, 3), send(3, 3), wait(3, two, 2)),
            *(work(two, two + 1, chunk=2), work(two + 1, two + 5, "readout", 2)),
        ],
        [
            *(work(0, 1.5, "project", 1), wait(1.5, one), work(one, one + 1, chunk=1)),
            send(one + 1, one + 1, 1),
        ],
    )


def test_a_path_goes_through_the_chain_and_what_it_needs():
    least, longest = bounds(*two_ranks(1.0))
    assert (longest.layer, longest.sequence, longest.crossings) == (0, 0, 2)
    assert longest.seconds == pytest.approx(3 + 2)
    assert least == pytest.approx(2 + 5 + 4)  # project of chunk 0, chain, readout of the last chunk


def test_a_message_counts_for_no_more_than_it_took_or_usually_takes():
    _, slow = bounds(*two_ranks(1.0, 9.0))
    assert slow.seconds == pytest.approx(3 + 2)  # 9 could be mended
    _, fast = bounds(*two_ranks(0.25, 1.0))
    assert fast.seconds == pytest.approx(3 + 0.25 + 0.25)


def test_a_rank_waits_at_least_for_the_first_wave():
    # The first advance and a message, after a project that is longer by a half than its own.
    assert bounds(*two_ranks(1.0), work_seconds=100.0)[0] == pytest.approx((100 + 1 + 1 + 0.5) / 2)


def test_no_work_has_no_bound():
    assert bounds([], [])[0] == 0
