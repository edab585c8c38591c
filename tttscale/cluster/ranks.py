"""The rank of this process, as one pure function of the environment, for every launcher."""

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tttscale.errors import LaunchError

_DEFAULT_PORT = 29500
_FIRST_PORT, _PORTS = 20000, 20000
"""The range of the ports that are derived from a job's name."""
_JOBS = {
    "environment": ("TORCHELASTIC_RUN_ID",),
    "openmpi": ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"),
    "pmi": ("PALS_APID", "PMIX_NAMESPACE"),
}
"""By source: variables in which a launcher names the job for its ranks."""
_BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")
"""Variables of batch systems, whose job may start several of ours."""
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ranks:
    """This process's place in the job, and the address of rank 0."""

    rank: int
    world_size: int
    local_rank: int
    """Rank among the processes on this host."""
    local_world_size: int
    """Processes on this host."""
    master_addr: str
    """Host of rank 0."""
    master_port: int
    """TCP port for the rendezvous."""
    source: str
    """Where this was read: environment (torchrun, deepspeed), openmpi, pmi, slurm or single."""
    one_host: bool = False
    """The launcher says that all processes are on this host; without a word from it, False."""

    def cores(self) -> int:
        """Return this process's share of the host's cores: those that the launcher gave to it, or a part."""
        mine = len(os.sched_getaffinity(0))
        if mine * self.local_world_size > (os.cpu_count() or mine):
            mine //= self.local_world_size  # the launcher gave all ranks the same ones
        return max(1, mine)


def discover(environ: Mapping[str, str]) -> Ranks:
    """Read this process's rank from what torchrun, deepspeed, mpirun or srun left in `environ`.

    Without a launcher the job is one process. MASTER_ADDR and MASTER_PORT win where they are set.

    Raises:
        LaunchError: the variables contradict each other or are incomplete.
    """
    # mpirun under Slurm starts its daemons with srun: its ranks carry the daemon's SLURM_*
    # variables as well, so Slurm comes last.
    for source in (_environment, _openmpi, _pmi, _slurm):
        ranks = source(environ)
        if ranks is not None:
            return _checked(ranks)
    return Ranks(0, 1, 0, 1, _LOOPBACK, _port(environ, _DEFAULT_PORT), "single", True)


def discover_place(environ: Mapping[str, str]) -> Ranks:
    """Read this process's rank for work whose processes need no MASTER_ADDR: they use MPI, or are alone.

    Raises:
        LaunchError: the variables contradict each other or are incomplete.
    """
    return discover({"MASTER_ADDR": _LOOPBACK, **environ})


def _environment(environ: Mapping[str, str]) -> Ranks | None:
    names = ("RANK", "WORLD_SIZE")
    present = [name for name in names if environ.get(name)]
    if not present:
        return None
    if len(present) == 1:
        missing = names[1 - names.index(present[0])]
        raise LaunchError(
            f"{present[0]}={environ[present[0]]} is set but {missing} is not. Start the job with "
            f"torchrun, deepspeed, mpirun or srun, or set {missing} too, or unset {present[0]}."
        )
    rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    # Set by hand without the local ones, the job is taken to be on one host.
    local_rank = _number(environ, "LOCAL_RANK", default=rank)
    sizes = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")
    local_world = _number(environ, *sizes, default=world)
    ranks = _ranks(environ, rank, world, local_rank, local_world, "environment")
    told = any(environ.get(name) for name in sizes)
    return ranks if told else replace(ranks, one_host=False)


def _openmpi(environ: Mapping[str, str]) -> Ranks | None:
    if not environ.get("OMPI_COMM_WORLD_RANK"):
        return None
    return _ranks(
        environ,
        _number(environ, "OMPI_COMM_WORLD_RANK"),
        _number(environ, "OMPI_COMM_WORLD_SIZE"),
        _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"),
        _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE"),
        "openmpi",
    )


def _pmi(environ: Mapping[str, str]) -> Ranks | None:
    """MPICH, Intel MPI and Cray PALS; `srun --mpi=pmi2` sets no local rank and is left to Slurm."""
    local_rank = ("MPI_LOCALRANKID", "PMI_LOCAL_RANK")
    if not environ.get("PMI_RANK") or not any(environ.get(name) for name in local_rank):
        return None
    return _ranks(
        environ,
        _number(environ, "PMI_RANK"),
        _number(environ, "PMI_SIZE"),
        _number(environ, *local_rank),
        _number(environ, "MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
        "pmi",
    )


def _slurm(environ: Mapping[str, str]) -> Ranks | None:
    """Slurm, only inside an srun step: the batch script itself is one process, whatever SLURM_NTASKS."""
    if not environ.get("SLURM_STEP_ID") or not environ.get("SLURM_PROCID"):
        return None
    world = _number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    per_node = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "")
    local_world = _tasks_here(per_node, _number(environ, "SLURM_NODEID", default=0))
    ranks = _ranks(
        environ,
        _number(environ, "SLURM_PROCID"),
        world,
        _number(environ, "SLURM_LOCALID"),
        local_world or world,
        "slurm",
    )
    return ranks if local_world else replace(ranks, one_host=False)


def _ranks(
    environ: Mapping[str, str],
    rank: int,
    world: int,
    local_rank: int,
    local_world: int,
    source: str,
) -> Ranks:
    port = _port(environ, _port_of(_port_name(environ, source)))
    one_host = local_world >= world
    address = environ.get("MASTER_ADDR") or _first_host(environ, alone=one_host)
    if not address:
        raise LaunchError(
            f"{world} processes on several hosts ({source}), but MASTER_ADDR is not set. Set it to "
            "the host of rank 0 on every process, for example: mpirun -x MASTER_ADDR=$(hostname)"
        )
    return Ranks(rank, world, local_rank, local_world, address, port, source, one_host)


def job_of(environ: Mapping[str, str], source: str) -> tuple[str, str]:
    """Find a name of this job that all of its ranks know and no other job has.

    A batch system's job may start several of ours, in sequence or at once. So the launcher's own name of its
    job comes first, where it has one. torchrun and deepspeed may start ranks outside of the batch job that
    started them: there the batch system's name does not count.

    Args:
        environ: this process's environment.
        source: as in `Ranks`.

    Returns:
        The variable and its value, to which Slurm's step may be added; both empty where there is none.
    """
    batch = () if source == "environment" else _BATCH_JOBS
    names = (*_JOBS.get(source, ()), *batch)
    variable = next((name for name in names if environ.get(name)), "")
    value = environ.get(variable, "")
    step = environ.get("SLURM_STEP_ID", "0")
    if source == "slurm" and variable and step != "0":
        value = f"{value}.{step}"
    return variable, value


def _port_name(environ: Mapping[str, str], source: str) -> str:
    """The job's name for its port; the ranks of torchrun and deepspeed are told their port."""
    if source != "environment":
        return job_of(environ, source)[1]
    return next((environ[name] for name in _BATCH_JOBS if environ.get(name)), "")


def _port_of(job: str) -> int:
    """Derive the port from the job: two jobs that share a host must not share a port."""
    if not job:
        return _DEFAULT_PORT
    number = int(job) if re.fullmatch(r"[0-9]{1,18}", job) else zlib.crc32(job.encode())
    return _FIRST_PORT + number % _PORTS


def _first_host(environ: Mapping[str, str], alone: bool) -> str:
    if alone:
        return _LOOPBACK
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((environ[name] for name in names if environ.get(name)), "")
    # "gpu[03-05,9]-ib,login1" -> "gpu03-ib"
    first_of_each = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodes)
    return first_of_each.split(",")[0]


def _tasks_here(tasks_per_node: str, node: int) -> int | None:
    """Entry `node` of Slurm's "8(x2),3", which stands for 8, 8, 3."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks_per_node):
        counts += [int(count)] * int(times or 1)
    return counts[node] if 0 <= node < len(counts) else None


def _port(environ: Mapping[str, str], default: int) -> int:
    port = _number(environ, "MASTER_PORT", default=default)
    if not 0 < port < 65536:
        raise LaunchError(f"MASTER_PORT={port} is not a TCP port; set one from 1024 to 65535.")
    return port


def _number(environ: Mapping[str, str], *names: str, default: int | None = None) -> int:
    name = next((name for name in names if environ.get(name)), None)
    if name is None and default is not None:
        return default
    if name is None:
        raise LaunchError(
            f"the launcher's environment lacks {' and '.join(names)}; start the job with torchrun, "
            "deepspeed, mpirun or srun, or set RANK and WORLD_SIZE."
        )
    if not re.fullmatch(r"\d{1,18}", environ[name]):
        raise LaunchError(f"{name}={environ[name]!r} should be a whole number of at least 0.")
    return int(environ[name])


def _checked(ranks: Ranks) -> Ranks:
    problem = None
    if ranks.rank >= ranks.world_size:
        problem = f"rank {ranks.rank} of {ranks.world_size}"
    elif ranks.local_rank >= ranks.local_world_size:
        problem = f"local rank {ranks.local_rank} of {ranks.local_world_size} on this host"
    elif ranks.local_world_size > ranks.world_size:
        problem = f"{ranks.local_world_size} on this host, of {ranks.world_size} in all"
    if problem:
        raise LaunchError(
            f"the launcher's variables ({ranks.source}) contradict each other: {problem}. Unset "
            "stale RANK, WORLD_SIZE, LOCAL_* or MASTER_* variables and start again."
        )
    return ranks
