"""A neighbour that ends without a word is told from one that says farewell."""

import os
import time
from datetime import timedelta

import torch.distributed as dist

from tests.ranks import run_ranks
from tttscale.comm.farewell import Farewells
from tttscale.errors import PeerError


def joined(ranks):
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{ranks.master_port}",
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timedelta(seconds=60),
    )


def leaving(ranks):
    """Rank 2 leaves first, rank 0 last; each has the others for peers."""
    joined(ranks)
    farewells = Farewells(peer for peer in range(3) if peer != ranks.rank)
    time.sleep(0.1 * (2 - ranks.rank))
    found = [farewells.lost(peer) for peer in range(3)]
    farewells.leave()
    return found


def test_all_who_leave_are_waited_for_and_none_is_lost():
    assert run_ranks(leaving, 3) == [[None] * 3] * 3


def dying(ranks):
    joined(ranks)
    if ranks.rank == 1:
        Farewells([0])
        os._exit(3)
    farewells = Farewells([1])
    deadline = time.monotonic() + 30
    while farewells.lost(1) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    noticed = farewells.lost(1)
    try:
        farewells.leave()
    except PeerError as error:
        return isinstance(noticed, RuntimeError), str(error)
    return "no error"


def test_one_who_dies_is_noticed_at_once_and_named():
    noticed, death = run_ranks(dying, 2)
    assert death == ("Died", "exit code 3", "")
    assert noticed[0] is True
    assert noticed[1].startswith("rank 0 lost rank 1 at the end of the run: ")
    assert "The first rank that failed has the cause" in noticed[1]
