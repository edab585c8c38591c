"""Ranks as threads: messages that are wrong or never come."""

import pytest
import torch


def test_a_wrong_message_is_named():
    from tttscale.comm.threads import ThreadTransport, ThreadWorld
    from tttscale.errors import PeerError
    from tttscale.model.ports import Carried
    from tttscale.scan.schedule import CarryKey, Phase

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
    from tttscale.comm.threads import ThreadTransport, ThreadWorld
    from tttscale.errors import PeerError
    from tttscale.model.ports import Carried
    from tttscale.scan.schedule import CarryKey, Phase

    receiver = ThreadTransport(ThreadWorld(2, timeout_seconds=0.2), 1)
    pending = receiver.irecv(CarryKey(Phase.FORWARD, 0, 0, 0, "state"), 0, Carried(((1,),)))
    with pytest.raises(
        PeerError, match=r"rank 1 waited .* for the state .* chunk 0, .* from rank 0"
    ):
        pending.wait()
