"""Carries over MPI: the bits of gloo, progress, wrong messages, a rank that dies; refused starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.comm.sweeps import CASES, GROUPS, own_sums
from tests.ranks import run_ranks, values
from tests.scan.helpers import sweep, tiny_config
from tttscale.cluster.ranks import Ranks
from tttscale.comm import mesh as meshes

ROOT = Path(__file__).parents[2]
MPIRUN = Path(sys.executable).parent / "mpirun"
CPU = torch.device("cpu")
ALONE = Ranks(0, 2, 0, 2, "127.0.0.1", 29500, "environment")
needs_mpirun = pytest.mark.skipif(not MPIRUN.exists(), reason="the extra `dev` brings mpirun")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Three ranks of one mpirun: what each said, its sums, and what mpirun said."""
    folder = tmp_path_factory.mktemp("job")
    options = ("--allow-run-as-root", "--oversubscribe", "-n", "3")
    done = subprocess.run(
        [MPIRUN, *options, sys.executable, "-m", "tests.comm.mpi_ranks", folder],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    files = [folder / f"{rank}.json" for rank in range(3)]
    assert all(file.exists() for file in files), done.stderr
    said = [json.loads(file.read_text()) for file in files]
    return said, [dict(np.load(folder / f"{rank}.npz")) for rank in range(3)], done


def gloo_sums(ranks):
    transport = meshes.start(ranks, ranks.world_size, CPU).transport
    assert "mpi4py" not in sys.modules  # nothing has asked for it
    return {name: array for case in CASES for name, array in own_sums(transport, case).items()}


@needs_mpirun
@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_has_the_bits_that_it_has_over_gloo(job, size):
    for rank, expected in enumerate(values(run_ranks(gloo_sums, size))):
        found = job[1][rank]
        names = {name for name in found if name.startswith(f"{size}/")}
        assert names == set(expected)
        assert len(names) > 2 * len(CASES)
        for name in names:
            assert found[name].tobytes() == expected[name].tobytes(), name


@needs_mpirun
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", CASES)
def test_losses_are_those_of_one_process(job, size, kind):
    expected, _ = sweep(tiny_config(), GROUPS, chunk=4, kind=kind)
    wanted = expected.sums.clone()
    expected.load(
        sum(torch.from_numpy(job[1][rank][f"{size}/{kind}/losses"]) for rank in range(size))
    )
    assert torch.equal(expected.sums, wanted)
    assert expected.sums.all()


@needs_mpirun
def test_large_messages_arrive_while_no_rank_waits(job):
    assert [said.get("arrived") for said in job[0]] == [3, 3, None]


@needs_mpirun
def test_a_message_that_was_not_expected_is_named(job):
    said = job[0][1]
    assert (
        "sequence rank 1 expected the state of sequence 0 after chunk 2, layer 1" in said["wrong"]
    )
    assert said["wrong"].startswith("PeerError")
    assert "received header" in said["wrong"]
    assert "(80 bytes) and received a longer message; the ranks run different" in said["long"]


@needs_mpirun
def test_a_dead_rank_is_noticed_soon_and_named_and_ends_the_job(job):
    said, _, done = job
    for rank, part in ((0, "state"), (1, "state's gradient")):
        lost = (
            f"PeerError: sequence rank {rank} lost rank 2 at the {part} of sequence 0 after chunk 2"
        )
        assert said[rank]["dead"].startswith(lost)
        assert said[rank]["seconds"] < 10
    assert done.returncode == 3


@needs_mpirun
def test_ranks_that_are_others_to_mpi_are_refused(job):
    for rank, said in enumerate(job[0]):
        assert f"is another rank to MPI (OMPI_COMM_WORLD_RANK={rank})" in said["other rank"]
        assert f": rank {rank})" in said["other rank of MPI"]
        assert "the job has 4 ranks, but Open MPI v" in said["other size"]
        assert "finds 3" in said["other size"]
        assert "this job computes on cuda" in said["gpu"]
