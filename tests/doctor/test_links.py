"""Links between neighbours of a ring of an odd size, and clocks, over gloo."""

import torch

from tests.ranks import run_ranks, values
from tttscale.comm.clock import clock_offsets
from tttscale.comm.mesh import start
from tttscale.doctor.links import measure
from tttscale.model.ports import Carried

CARRIED = Carried(((1, 4, 64, 64), (3,)), torch.float32)


def look(ranks):
    mesh = start(ranks, ranks.world_size, torch.device("cpu"))
    link, offsets = measure(mesh, CARRIED, torch.device("cpu"), "gloo"), clock_offsets(mesh)
    mesh.gather([0.0])
    mesh.close()
    assert link is not None
    return tuple(link), offsets


def test_every_link_of_a_ring_of_three_is_measured():
    found = values(run_ranks(look, 3))
    assert [link[:3] for link, _ in found] == [(0, 1, 65552), (1, 2, 65552), (2, 0, 65552)]
    assert all(latency > 0 and rate > 0 for (*_, latency, rate, _), _ in found)
    assert [len(offsets) for _, offsets in found] == [3, 0, 0]
    assert all(abs(offset.seconds) < 5 for offset in found[0][1])
