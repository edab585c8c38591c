"""The host: disk, memory, cores and limits."""

import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from tttscale.cluster.ranks import Ranks
from tttscale.doctor.findings import Finding, ok, problem, warning
from tttscale.observe import human

GIB = 1 << 30
LITTLE_DISK_BYTES, LEAST_DISK_BYTES = 10 * GIB, GIB
LITTLE_SHM_BYTES = GIB // 2
_SHM = Path("/dev/shm")
_FILES, _FILES_PER_RANK = 1024, 16


def disk(what: str, folder: Path) -> Iterator[Finding]:
    """Room where files will be written.

    Args:
        what: the files, such as "runs".
        folder: need not exist yet.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    room = f"{what}: {human(free, 1024)}B free in {folder}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield problem(
            f"{what}: {there} cannot be written", "Change its owner, or name another folder"
        )
    elif free < LEAST_DISK_BYTES:
        yield problem(room, "Free some room, or name a folder on another disk")
    elif free < LITTLE_DISK_BYTES:
        yield warning(
            room, "Checkpoints of a large model need more: free some, or lower checkpoint.keep"
        )
    else:
        yield ok(room)


def shared_memory(folder: Path = _SHM) -> Iterator[Finding]:
    """/dev/shm, through which NCCL, MPI and worker processes of one host speak."""
    if not folder.is_dir():
        yield warning(f"no {folder}", "Mount a tmpfs there")
        return
    free = shutil.disk_usage(folder).free
    room = f"{folder}: {human(free, 1024)}B free"
    if free < LITTLE_SHM_BYTES:
        yield warning(
            f"{room}, through which NCCL, MPI and workers of a host speak",
            "In a container: --shm-size=8g or --ipc=host; else remove what is left there, or mount it larger",
        )
    else:
        yield ok(room)


def cores(
    ranks: Ranks, threads: int | None, environ: Mapping[str, str], mine: int | None = None
) -> Iterator[Finding]:
    """Cores against the threads of all ranks of this host.

    Args:
        ranks: this process's place.
        threads: `parallel.threads`.
        environ: the environment.
        mine: cores that this process may use; None: as the system says.
    """
    mine = len(os.sched_getaffinity(0)) if mine is None else mine
    bound = mine * ranks.local_world_size <= (os.cpu_count() or mine)
    sharers = 1 if bound else ranks.local_world_size
    given = environ.get("OMP_NUM_THREADS", "")
    wanted = threads or (int(given) if given.isdecimal() else None)
    has = f"{mine} core(s) for {sharers} rank(s)" + ", each with its own" * (
        bound and ranks.local_world_size > 1
    )
    if wanted and wanted > 1 and wanted * sharers > mine:
        key = "parallel.threads" if threads else "OMP_NUM_THREADS"
        yield warning(
            f"{has}, which start {wanted} thread(s) each ({key})",
            f"Set {key} to {max(1, mine // sharers)}, or start fewer ranks on this host",
        )
    elif sharers > mine:
        yield warning(f"{has}: they wait for each other", "Start fewer ranks on this host")
    else:
        yield ok(f"{has}; {f'{wanted} thread(s) each' if wanted else 'threads: cores / ranks'}")


def open_files(ranks: Ranks, limit: int | None = None) -> Iterator[Finding]:
    """The limit of open files: every rank holds connections to others."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    needed = max(_FILES, _FILES_PER_RANK * ranks.world_size)
    if 0 <= limit < needed:
        yield warning(
            f"at most {limit} open files; connections and shards may need {needed}",
            f"ulimit -n {needed} before the start (Slurm: on the nodes, or --propagate=NOFILE)",
        )
    else:
        yield ok(f"open files: {'no limit' if limit < 0 else f'at most {limit:,}'}")


def memory(available_bytes: int) -> Iterator[Finding]:
    """What is free on the host, or within the limit of a container or a Slurm job."""
    free = f"memory: {human(available_bytes, 1024)}B free"
    if available_bytes < GIB:
        yield warning(free, "End other programs, or ask for more (Slurm: --sbatch mem=...)")
    else:
        yield ok(free)
