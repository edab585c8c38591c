"""Carries as messages, and the links of a ring."""

from dataclasses import replace

import pytest
import torch

from tttscale.comm.messages import (
    HEADER_BYTES,
    check_header,
    header,
    lost,
    lost_at,
    message,
    message_bytes,
    ring_links,
)
from tttscale.errors import PeerError
from tttscale.model.ports import Carried
from tttscale.scan.carry_store import views
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


KEY = CarryKey(Phase.FORWARD, 3, 2, 1, "qk_conv")
CARRIED = Carried(((2, 3), (5,)), torch.bfloat16)
PART = torch.arange(6.0).view(2, 3).bfloat16(), torch.arange(5.0).bfloat16()


def test_a_message_is_a_header_and_the_tensors():
    sent = message(KEY, PART, torch.device("cpu"))
    assert (sent.dtype, len(sent)) == (torch.uint8, message_bytes(CARRIED))
    check_header(0, KEY, sent[:HEADER_BYTES])
    for found, part in zip(views(sent[HEADER_BYTES:], CARRIED), PART, strict=True):
        assert torch.equal(found, part)


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": Phase.BACKWARD},
        {"sequence": 4},
        {"boundary": 1},
        {"layer": 0},
        {"part": "pre_conv"},
    ],
    ids=str,
)
def test_any_other_message_is_refused(changes):
    lead = message(replace(KEY, **changes), PART, torch.device("cpu"))[:HEADER_BYTES]
    with pytest.raises(PeerError) as caught:
        check_header(5, KEY, lead)
    said = str(caught.value)
    assert said.startswith(f"sequence rank 5 expected {KEY} (header {header(KEY)}) and received")
    assert said.endswith("the ranks run different configurations or versions")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("Connection closed\nby peer"),
            "rank 1 is gone: Connection closed. The first",
        ),
        (ValueError(""), "rank 1 is gone: ValueError. The first"),
    ],
)
def test_who_only_noticed_says_so(error, said):
    assert str(lost("rank 1 is gone", error)).startswith(said)
    at = str(lost_at(0, 1, KEY, error))
    assert at.startswith(f"sequence rank 0 lost rank 1 at {KEY}: ")


def test_links_of_a_ring_lead_up_for_states_and_down_for_gradients():
    assert ring_links(3) == [
        (0, 1, Phase.FORWARD),
        (1, 2, Phase.FORWARD),
        (2, 0, Phase.FORWARD),
        (1, 0, Phase.BACKWARD),
        (2, 1, Phase.BACKWARD),
        (0, 2, Phase.BACKWARD),
    ]
