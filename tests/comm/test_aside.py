"""Threads of the ranks agree beside their main threads, whoever of both is first."""

import threading
import time

import pytest
import torch

from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes
from tttscale.comm.aside import Aside
from tttscale.comm.mesh import Mesh
from tttscale.errors import PeerError
from tttscale.scan.transport import SingleRank

ROUNDS = 30


def both_at_once(ranks):
    """Each rank's thread and main thread gather as they please; no collective meets another's."""
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    aside, found = Aside(mesh, "test"), []
    assert (aside.rank, aside.world_size) == (mesh.rank, mesh.world_size)

    def beside():
        for number in range(ROUNDS):
            time.sleep(0.001 * (ranks.rank == number % 2))
            found.append(aside.gather_texts(f"{number} of {ranks.rank}" * (1 + number % 3)))

    thread = threading.Thread(target=beside)
    thread.start()
    sums = []
    for number in range(ROUNDS):
        time.sleep(0.001 * (ranks.rank != number % 3))
        sums.append(mesh.gather([float(number + ranks.rank)])[:, 0].tolist())
    thread.join()
    return found, sums


def test_the_main_threads_do_not_meet_the_others():
    world = 3
    for found, sums in values(run_ranks(both_at_once, world)):
        assert found == [
            [f"{number} of {rank}" * (1 + number % 3) for rank in range(world)]
            for number in range(ROUNDS)
        ]
        assert sums == [[float(number + rank) for rank in range(world)] for number in range(ROUNDS)]


def test_one_rank_asks_nobody():
    assert Aside(Mesh(0, 1, 1, SingleRank()), "test").gather_texts("a") == ["a"]


def left_alone(ranks):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    aside = Aside(mesh, "test")
    if ranks.rank == 1:
        return "gone"
    with pytest.raises(
        PeerError, match="lost another rank while all ranks compared notes"
    ) as error:
        aside.gather_texts("is anybody there?")
    return str(error.value)


def test_another_ranks_end_is_noticed():
    first, second = values(run_ranks(left_alone, 2))
    assert second == "gone"
    assert first.startswith("rank 0 lost another rank")
