"""Lengths of messages are asked for once, unless they depend on the boundary."""

import pytest

from tests.plan.helpers import PARTS, schedule
from tttscale.plan.message_bytes import MessageBytes


def sizes(chunks, grows):
    asked = []

    def carry_bytes(key):
        asked.append((key.boundary, key.layer, key.part))
        return 100 * (key.layer + 1) + PARTS.index(key.part) + grows * key.boundary

    return MessageBytes(schedule(chunks=chunks), carry_bytes), asked


def test_alike_at_all_boundaries():
    found, asked = sizes(chunks=9, grows=0)
    assert not found.differ
    assert found.at(5) == found.at(0) == [100, 101, 102, 200, 201, 202]
    assert {boundary for boundary, *_ in asked} == {0, 7}


def test_growing_with_the_tokens_seen():
    found, _ = sizes(chunks=9, grows=10)
    assert found.differ
    assert found.at(5) == [150, 151, 152, 250, 251, 252]


@pytest.mark.parametrize("chunks", [1, 2])
def test_few_boundaries(chunks):
    found, asked = sizes(chunks, grows=10)
    assert not found.differ
    assert (found.at(0) == []) == (chunks == 1)
    assert bool(asked) == (chunks == 2)
