"""Carries as messages, and the links of a ring."""

import pytest

from tttscale.comm.messages import ring_links
from tttscale.scan.schedule import CarryKey, Phase


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (Phase.FORWARD, "the qk_conv of sequence 3 after chunk 2, layer 1"),
        (Phase.BACKWARD, "the qk_conv's gradient of sequence 3 after chunk 2, layer 1"),
    ],
)
def test_messages_are_named_for_people(phase, said):
    assert str(CarryKey(phase, 3, 2, 1, "qk_conv")) == said


def test_ring_links_have_a_group_for_each_direction():
    assert len(set(ring_links(2))) == 4
    assert len(set(ring_links(5))) == 10
