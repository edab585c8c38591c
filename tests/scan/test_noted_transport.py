"""Messages are noted where they hold a rank up, with the chunk of this rank that they belong to."""

from types import SimpleNamespace

import pytest
import torch

from tests.scan.declared import Notes
from tttscale.model.ports import Carried
from tttscale.scan.noted_transport import NotedTransport
from tttscale.scan.schedule import CarryKey, Phase

PART = (torch.ones(2),)
CARRIED = Carried(((2,),), torch.float32)


class Wire:
    rank, size = 1, 3

    def __init__(self):
        self.log = []

    def irecv(self, *words):
        self.log.append(("irecv", *words))
        return SimpleNamespace(wait=lambda: PART)

    def isend(self, *words):
        self.log.append(("isend", *words))

    def flush(self):
        self.log.append(("flush",))


@pytest.fixture
def noted():
    wire, notes = Wire(), Notes()
    return NotedTransport(wire, notes), wire, notes


@pytest.mark.parametrize(
    ("phase", "run", "sender", "receiver"),
    [(Phase.FORWARD, "forward", 2, 3), (Phase.BACKWARD, "backward", 3, 2)],
)
def test_a_message_is_of_the_chunk_at_this_side_of_the_boundary(
    noted, phase, run, sender, receiver
):
    transport, wire, notes = noted
    key = CarryKey(phase, 5, 2, 7, "state")  # between chunks 2 and 3
    transport.isend(key, 0, PART)
    handle = transport.irecv(key, 2, CARRIED)
    assert notes.log == [("send", run, (5, sender), 7, "state")]
    assert handle.wait() is PART
    assert notes.log[1:] == [("wait", run, (5, receiver), 7, "state")]
    assert wire.log == [("isend", key, 0, PART), ("irecv", key, 2, CARRIED)]


def test_a_flush_ends_what_was_noted(noted):
    transport, wire, notes = noted
    transport.flush()
    assert [activity for activity, *_ in notes.log] == ["flush", "other"]
    assert wire.log == [("flush",)]


def test_it_is_the_rank_that_it_stands_for(noted):
    assert (noted[0].rank, noted[0].size) == (1, 3)


def test_what_fails_was_noted_before_it_began(noted):
    transport, wire, notes = noted
    wire.isend = lambda *_: 1 // 0
    with pytest.raises(ZeroDivisionError):
        transport.isend(CarryKey(Phase.FORWARD, 0, 0, 0, "state"), 0, PART)
    assert len(notes.log) == 1
