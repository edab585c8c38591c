"""What all ranks have to agree on."""

import torch

from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes
from tttscale.errors import LaunchError


def disagreeing(ranks, values):
    try:
        meshes.start(ranks, 2, torch.device("cpu"), agreed=values[ranks.rank])
    except LaunchError as error:
        return str(error)
    return "no error"


def test_ranks_with_other_values_end_on_every_rank():
    one = {"run.seed": "0", "train.lr": "0.1"}
    same = values(run_ranks(disagreeing, 2, [one, dict(one)]))
    assert same == ["no error", "no error"]
    other = values(
        run_ranks(disagreeing, 2, [one, {"run.seed": "17", "train.lr": "0.1", "x": "1"}])
    )
    assert other[0] == other[1]
    assert (
        "rank 1 runs with run.seed = 17, x = 1, rank 0 with run.seed = 0, x = nothing" in other[0]
    )
