"""The ranks of a job as a mesh of replicas and sequence ranks, and the sums over it."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tttscale.cluster.ranks import Ranks
from tttscale.comm import mpi_world
from tttscale.comm.agreement import check_agreement, texts_of_all_ranks
from tttscale.comm.farewell import Farewells
from tttscale.comm.first_store import say
from tttscale.comm.groups import prepare_nccl
from tttscale.comm.meeting import connecting, meet
from tttscale.comm.messages import lost
from tttscale.comm.mpi_transport import MPITransport
from tttscale.comm.neighbours import NeighbourTransport
from tttscale.scan.transport import SingleRank, Transport
from tttscale.supervise.page import Phase, enter, waiting

TIMEOUT = timedelta(minutes=30)
"""A receive may legally wait for a whole sweep of the other ranks."""


@dataclass(frozen=True)
class Mesh:
    """world = replicas x sequence; the sequence axis is the inner one, so it stays within a node."""

    rank: int
    world_size: int
    sequence_size: int
    transport: Transport
    """Carries between the sequence ranks of this replica."""
    leave_transport: Callable[[], None] | None = None
    """Leaves a library that the transport brought, beside torch.distributed."""

    @property
    def replica(self) -> int:
        """Place on the data axis."""
        return self.rank // self.sequence_size

    @property
    def replicas(self) -> int:
        """Size of the data axis."""
        return self.world_size // self.sequence_size

    def sum_on_cpu(self, values: Tensor) -> Tensor:
        """Sum a CPU tensor over all ranks, in place; CPU tensors travel over gloo on GPU jobs too."""
        if self.world_size > 1:
            with self.noticing("in a sum over all ranks"), waiting():
                dist.all_reduce(values)
        return values

    @contextmanager
    def noticing(self, where: str) -> Iterator[None]:
        """What torch.distributed raises inside is the end of another rank.

        Raises:
            PeerError: in its place.
        """
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise lost(f"rank {self.rank} lost another rank {where}", error) from None

    def gather(self, values: list[float]) -> Tensor:
        """One row of numbers of every rank: fp64 [world, len(values)]."""
        rows = torch.zeros(self.world_size, len(values), dtype=torch.float64)
        rows[self.rank] = torch.tensor(values, dtype=torch.float64)
        return self.sum_on_cpu(rows)

    def gather_texts(self, text: str) -> list[str]:
        """One text of every rank, in rank order."""
        if self.world_size == 1:
            return [text]
        with self.noticing("while all ranks compared notes"), waiting():
            return texts_of_all_ranks(text)

    def broadcast(self, tensors: Sequence[Tensor], source: int) -> None:
        """Give all ranks the CPU tensors of one, in place, over gloo; every rank calls this.

        Args:
            tensors: of the same shapes and dtypes on all ranks.
            source: the rank whose values all get.
        """
        if self.world_size > 1:
            with self.noticing(f"while rank {source} told all others"), waiting():
                for tensor in tensors:
                    dist.broadcast(tensor, source)

    def close(self) -> None:
        """Leave the process groups, and MPI; all ranks call this at the end of the job."""
        if self.leave_transport is not None:
            self.leave_transport()
        if dist.is_initialized():
            dist.destroy_process_group()


def leave(code: int) -> None:
    """End the process at once if it belongs to a job.

    After an error gloo's threads may still be at work. An ordinary exit takes what they use away from them,
    and now and then ends in SIGABRT instead of `code`.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(
    ranks: Ranks,
    sequence_size: int,
    device: torch.device,
    agreed: Mapping[str, str] | None = None,
    *,
    transport: str = "auto",
) -> Mesh:
    """Join the job and connect the neighbours; every rank calls this once, with equal arguments.

    Args:
        ranks: who this process is (`tttscale.cluster`).
        sequence_size: sequence ranks R per replica; divides the world.
        device: CPU takes gloo, CUDA takes NCCL for carries and gradients.
        agreed: what ranks must have in common, by the names that a user knows.
        transport: of carries between sequence ranks: "mpi", or "torch" and "auto" for torch.distributed.

    Raises:
        LaunchError: they do not, or do not find each other; or the transport cannot be had.
    """
    assert ranks.world_size % sequence_size == 0
    enter(Phase.MEET)
    mesh = _start(ranks, sequence_size, device, agreed, transport)
    enter(Phase.BUILD)  # an error before is one of the meeting
    return mesh


def _start(
    ranks: Ranks,
    sequence_size: int,
    device: torch.device,
    agreed: Mapping[str, str] | None,
    transport: str,
) -> Mesh:
    if transport == "mpi":
        mpi_world.check_mpi_job(ranks, device)
    # DeepSpeed and other libraries look here; mpirun and srun do not set it.
    os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank))
    if not dist.is_initialized():
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        if ranks.world_size == 1:
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        else:
            os.environ.setdefault("MASTER_ADDR", ranks.master_addr)
            os.environ.setdefault("MASTER_PORT", str(ranks.master_port))
            if device.type == "cuda" and sequence_size > 1:
                warning = prepare_nccl(os.environ)
                if warning:
                    say(ranks, warning)
            store = meet(ranks, TIMEOUT)
            with connecting(ranks):
                dist.init_process_group(
                    backend,
                    store=store,
                    rank=ranks.rank,
                    world_size=ranks.world_size,
                    timeout=TIMEOUT,
                )
        with connecting(ranks):
            check_agreement({**(agreed or {}), "the device": device.type})
    if transport == "mpi" and sequence_size > 1:
        return _over_mpi(ranks, sequence_size)
    neighbours: Transport = SingleRank()
    if sequence_size > 1:
        with connecting(ranks):
            neighbours = NeighbourTransport.connect(
                ranks.rank,
                ranks.world_size,
                sequence_size,
                device=device,
                timeout=TIMEOUT,
            )
    return Mesh(ranks.rank, ranks.world_size, sequence_size, neighbours)


def _over_mpi(ranks: Ranks, sequence_size: int) -> Mesh:
    """The mesh of ranks that have met, with carries over MPI."""
    first = ranks.rank // sequence_size * sequence_size
    peers = ((ranks.rank - first + step) % sequence_size + first for step in (-1, 1))
    farewells = Farewells(peers)
    with connecting(ranks):
        carries = MPITransport.connect(
            mpi_world.join_mpi(ranks),
            sequence_size,
            farewells=farewells,
            timeout_seconds=TIMEOUT.total_seconds(),
        )

    def leave_transport() -> None:
        """Say farewell, and leave MPI."""
        farewells.leave()
        carries.close()
        mpi_world.leave_mpi()

    return Mesh(ranks.rank, ranks.world_size, sequence_size, carries, leave_transport)
