"""Bytes of all ranks on rank 0."""

import torch

from tests.ranks import run_ranks, values
from tttscale.cluster.ranks import Ranks
from tttscale.comm import mesh as meshes
from tttscale.comm.gather_bytes import gather_bytes


def gathered(ranks: Ranks):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    found = gather_bytes(mesh, bytes(range(256)) * 1000 * ranks.rank)
    again = gather_bytes(mesh, str(ranks.rank).encode())
    mesh.close()
    return [len(data) for data in found], [data.decode() for data in again]


def test_of_several_ranks():
    first, *others = values(run_ranks(gathered, 3))
    assert first == ([0, 256_000, 512_000], ["0", "1", "2"])
    assert others == [([], [])] * 2


def test_of_one():
    mesh = meshes.Mesh(0, 1, 1, None)
    assert gather_bytes(mesh, b"alone") == [b"alone"]
