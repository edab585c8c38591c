"""Work that all ranks do together: all have the results, or all have the same error."""

import pytest
import torch

from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes
from tttscale.comm.collective import on_all_ranks
from tttscale.errors import CheckpointError, DataError
from tttscale.train.checkpoint.manifest import DamagedError


def only(ranks, rank, error):
    """Work that fails on one rank."""

    def work():
        if ranks.rank == rank:
            raise error
        return ranks.rank

    return work


def outcomes(ranks):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    kinds = (DamagedError, CheckpointError)
    found = [on_all_ranks(mesh, lambda: [ranks.rank, "done"], *kinds)]
    for rank, error in (
        (1, DamagedError("a file")),
        (0, CheckpointError("a folder")),
        (1, OSError(28, "No space left on device")),
    ):
        with pytest.raises(CheckpointError) as caught:
            on_all_ranks(mesh, only(ranks, rank, error), *kinds)
        found.append((type(caught.value).__name__, str(caught.value)))
    with pytest.raises(CheckpointError, match=r"^rank 0: both$"):
        on_all_ranks(mesh, only(ranks, ranks.rank, CheckpointError("both")), *kinds)
    return found


def test_all_ranks_have_the_results_or_the_same_error():
    first, second = values(run_ranks(outcomes, 2))
    assert first == second
    assert first == [
        [[0, "done"], [1, "done"]],
        ("DamagedError", "rank 1: a file"),
        ("CheckpointError", "rank 0: a folder"),
        ("CheckpointError", "rank 1: [Errno 28] No space left on device"),
    ]


class Alone:
    """A mesh of one rank."""

    world_size = 1

    def gather_texts(self, text):
        return [text]


def test_a_single_rank_is_not_named_and_other_errors_pass():
    with pytest.raises(CheckpointError, match=r"^a folder$"):
        on_all_ranks(Alone(), lambda: _raise(CheckpointError("a folder")), CheckpointError)
    with pytest.raises(DataError, match=r"^another kind$"):
        on_all_ranks(Alone(), lambda: _raise(DataError("another kind")), CheckpointError)


def _raise(error):
    raise error
