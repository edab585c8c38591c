"""`tttscale train` as launch/mpirun.sh starts it, with carries over torch.distributed and over MPI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks import free_port
from tttscale.observe import read_metrics

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


def mpirun(folder, *overrides):
    """What two ranks say."""
    done = subprocess.run(
        ["bash", ROOT / "launch/mpirun.sh", folder / "run.yaml", "parallel.sequence=2", *overrides],
        env=os.environ
        | {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "N": "2"}
        | {"MPIRUN_ARGS": "--allow-run-as-root --oversubscribe", "MASTER_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not (PROGRAMS / "mpirun").exists(), reason="the extra `dev` brings mpirun")
def test_a_run_over_mpi_has_the_losses_of_one_over_torch(folder):
    losses = {}
    for transport in ("auto", "mpi"):
        named = f"run.name={transport}", f"parallel.transport={transport}"
        said = mpirun(folder, *named, "train.steps=3", "zero.stage=2")
        assert ("2 sequence rank(s) over MPI" in said) == (transport == "mpi")
        records = read_metrics(folder / "runs" / transport / "metrics.jsonl")
        losses[transport] = [(record["loss"], record.get("heldout_loss")) for record in records]
    assert len(losses["mpi"]) == 3
    assert losses["mpi"] == losses["auto"]
