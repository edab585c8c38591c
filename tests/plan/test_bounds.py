"""The serial chain and the least time of a step, by hand."""

import pytest

from tests.plan.helpers import schedule, simple_costs
from tttscale.plan.bounds import possible
from tttscale.plan.message_bytes import MessageBytes

PASSING = 2 * 3 * (1 + 0.25 + 0.5 + 2)
"""One chunk through two layers, forward and back: a backward takes twice as long."""
ADVANCE = 0.25 + 0.5


def bounds(work=0.0, wire=(0.0, 1e12), send=0.0, ranks_per_host=8, size=0, **kind):
    made = schedule(**kind)
    sizes = MessageBytes(made, lambda key: size)
    return possible(made, sizes, simple_costs(wire=wire, send=send), ranks_per_host, work)


def test_a_chain_is_every_chunks_advance_there_and_back():
    chain, least = bounds(chunks=4)
    assert chain == pytest.approx(4 * ADVANCE)
    assert least == pytest.approx(chain + PASSING - ADVANCE)


def test_a_hand_over_between_ranks_takes_send_and_wire_both_ways():
    chain, _ = bounds(chunks=4, wire=(0.125, 1000.0), send=0.0625, size=500)
    assert chain == pytest.approx(4 * ADVANCE + 3 * 2 * (0.125 + 0.5 + 0.0625))


def test_contiguous_neighbours_hand_over_for_nothing():
    chain, _ = bounds(kind="contiguous", chunks=4, wire=(0.125, 1e12))
    assert chain == pytest.approx(4 * ADVANCE + 1 * 2 * 0.125)


def test_between_hosts_the_slower_link_counts():
    chain, _ = bounds(chunks=4, wire=(0.125, 1e12), ranks_per_host=1)
    assert chain == pytest.approx(4 * ADVANCE + 3 * 2 * 1.25)


def test_much_work_is_divided_evenly_after_the_wave_has_arrived():
    _, least = bounds(work=4000.0, chunks=64, ranks=4)
    assert least == pytest.approx(1000.0 + 3 * ADVANCE)
    _, with_waves = bounds(work=4000.0, chunks=64, ranks=4, sequences=4)
    assert with_waves == pytest.approx(1000.0)  # each rank begins with a sequence of its own
