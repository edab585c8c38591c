"""Clocks that are known to be apart are found to be, within the error that is given."""

import time

import torch

from tests.ranks import run_ranks, values
from tttscale.comm.clock import clock_offsets
from tttscale.comm.mesh import start

AHEAD = [0.0, 3.25, -70.5]


def compare(ranks):
    mesh = start(ranks, ranks.world_size, torch.device("cpu"))
    found = clock_offsets(mesh, lambda: time.perf_counter() + AHEAD[ranks.rank], rounds=9)
    mesh.gather([0.0])
    mesh.close()
    return [tuple(offset) for offset in found]


def test_offsets_are_found_within_their_error():
    first, *others = values(run_ranks(compare, 3))
    assert others == [[], []]
    assert first[0] == (0.0, 0.0)
    for (found, error), true in zip(first[1:], AHEAD[1:], strict=True):
        assert abs(found - true) <= error + 1e-4
        assert 0 < error < 1
