"""Ranks as threads: messages that are wrong or never come."""

from dataclasses import replace

import pytest
import torch

from tttscale.comm.threads import ThreadTransport, ThreadWorld
from tttscale.errors import PeerError
from tttscale.model.ports import Carried
from tttscale.scan.schedule import CarryKey, Phase


def test_a_wrong_message_is_named():
    world = ThreadWorld(2)
    sender, receiver = ThreadTransport(world, 0), ThreadTransport(world, 1)
    sender.isend(CarryKey(Phase.FORWARD, 0, 1, 0, "state"), 1, (torch.zeros(1),))
    pending = receiver.irecv(CarryKey(Phase.FORWARD, 0, 0, 0, "state"), 0, Carried(((1,),)))
    with pytest.raises(
        PeerError,
        match=r"expected the state .* chunk 0, layer 0 from rank 0 and got the state .* chunk 1,",
    ):
        pending.wait()


def test_a_message_that_never_comes_is_named():
    receiver = ThreadTransport(ThreadWorld(2, timeout_seconds=0.2), 1)
    pending = receiver.irecv(CarryKey(Phase.FORWARD, 0, 0, 0, "state"), 0, Carried(((1,),)))
    with pytest.raises(
        PeerError, match=r"rank 1 waited .* for the state .* chunk 0, .* from rank 0"
    ):
        pending.wait()


def test_results_come_in_rank_order_and_parts_as_copies():
    def work(transport):
        key = CarryKey(Phase.FORWARD, 0, transport.rank, 0, "state")
        up, down = (transport.rank + 1) % 3, (transport.rank - 1) % 3
        mine = torch.tensor([float(transport.rank)])
        transport.isend(key, up, (mine,))
        mine.fill_(-1)  # too late to matter
        transport.flush()
        (found,) = transport.irecv(replace(key, boundary=down), down, Carried(((1,),))).wait()
        return transport.rank, found.item()

    assert ThreadWorld(3).run(work) == [(0, 2.0), (1, 0.0), (2, 1.0)]


def test_the_cause_is_raised_and_not_what_others_noticed():
    def work(transport):
        if transport.rank == 2:
            raise ZeroDivisionError("the cause")
        key = CarryKey(Phase.FORWARD, 0, 0, 0, "state")
        transport.irecv(key, 2, Carried(((1,),))).wait()

    with pytest.raises(ZeroDivisionError, match="the cause"):
        ThreadWorld(3).run(work)


def test_phases_do_not_mix():
    """A gradient that is sent first does not stand in the way of a state."""
    world = ThreadWorld(2)
    sender, receiver = ThreadTransport(world, 0), ThreadTransport(world, 1)
    keys = [CarryKey(phase, 0, 0, 0, "state") for phase in Phase]
    for number, key in enumerate(reversed(keys)):
        sender.isend(key, 1, (torch.tensor([number]),))
    found = [receiver.irecv(key, 0, Carried(((1,),))).wait()[0].item() for key in keys]
    assert found == [1, 0]
