"""Ranks that are done sleep until the first one lets them go, and notice if it dies."""

import time

import pytest
import torch

from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes
from tttscale.comm.dismissal import Dismissal
from tttscale.comm.mesh import Mesh
from tttscale.errors import PeerError
from tttscale.scan.transport import SingleRank


def let_go(ranks):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    dismissal = Dismissal(mesh)
    if ranks.rank == 0:
        time.sleep(1.0)
        now = time.time()
        dismissal.dismiss()
        return now
    began = time.process_time()
    dismissal.wait()
    return time.time(), time.process_time() - began


def test_they_wait_without_computing():
    first, *others = values(run_ranks(let_go, 3))
    for left, cpu_seconds in others:
        assert left >= first
        assert cpu_seconds < 0.5


def one_dies(ranks, who):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    dismissal = Dismissal(mesh)
    if ranks.rank == who:
        return "gone"
    if ranks.rank == 0:
        dismissal.dismiss()
        return "dismissed"
    with pytest.raises(PeerError, match="lost another rank that had work to do alone") as error:
        dismissal.wait()
    return str(error.value)


def test_the_end_of_the_first_is_noticed():
    first, second = values(run_ranks(one_dies, 2, 0))
    assert first == "gone"
    assert second.startswith("rank 1 lost another rank")


def test_one_that_has_gone_already_is_not_missed():
    assert values(run_ranks(one_dies, 2, 1)) == ["dismissed", "gone"]


def test_alone_no_rank_is_dismissed():
    Dismissal(Mesh(0, 1, 1, SingleRank())).dismiss()
