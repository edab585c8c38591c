"""The process groups of links between ranks, and how NCCL is to move carries over them."""

from collections.abc import Iterable, MutableMapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from tttscale.scan.schedule import Phase

Link = tuple[int, int, Phase]
"""(source, target, phase), ranks on the sequence axis."""

CHANNELS = 2
"""NCCL's channels for each link: a posted receive holds a multiprocessor (SM) per channel while it waits."""
_P2P_CHANNELS = "NCCL_MAX_P2P_NCHANNELS"
_CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"


def in_rounds(links: Iterable[Link], size: int) -> list[Link]:
    """Order a ring's links so that those of one round share no rank, in two or three rounds in all.

    In the ring's own order a rank would wait for all links before its own.
    """

    def round_of(link: Link) -> tuple[int, int, bool]:
        source, target, phase = link
        low = source if phase is Phase.FORWARD else target
        last_of_odd = size % 2 == 1 and low == size - 1
        return 2 if last_of_odd else low % 2, low, phase is Phase.BACKWARD

    return sorted(links, key=round_of)


def link_groups(
    rank: int, world_size: int, links: list[Link], size: int, *, backend: str, timeout: timedelta
) -> dict[Link, dist.ProcessGroup]:
    """Create a process group for each link of each replica; every rank calls this.

    Every rank asks for every group, so that torch numbers them alike on all ranks. A rank outside of a group
    gets its answer at once; one inside waits for the other rank of the link only.

    Args:
        rank: in the world.
        world_size: ranks of all replicas.
        links: of a replica, in an order that is the same on all ranks.
        size: sequence ranks per replica.
        backend: "gloo" or "nccl".
        timeout: of a receive.

    Returns:
        The groups that this rank is in.
    """
    groups: dict[Link, dist.ProcessGroup] = {}
    for source, target, phase in links:
        for replica in range(0, world_size, size):
            pair = sorted((replica + source, replica + target))
            group = dist.new_group(
                pair,
                timeout=timeout,
                backend=backend,
                # One for each group: torch writes the group's name into it.
                pg_options=_nccl_options(timeout) if backend == "nccl" and rank in pair else None,
                group_desc=f"carries {replica + source} to {replica + target}, {phase.name.lower()}",
            )
            if rank in pair:
                assert isinstance(group, dist.ProcessGroup)
                groups[source, target, phase] = group
    return groups


def prepare_nccl(environ: MutableMapping[str, str]) -> str | None:
    """Limit the channels of NCCL's sends and receives, unless the user has; call this before NCCL starts.

    A communicator's own limit of channels holds for collectives only.

    Returns:
        A warning about a setting of other software that would take the overlap away, or None.
    """
    environ.setdefault(_P2P_CHANNELS, str(CHANNELS))
    if environ.get(_CONNECTIONS) != "1":
        return None
    return (
        f"WARNING: {_CONNECTIONS}=1 makes a GPU run its work in the order in which it was asked for, so "
        "computing may wait for carries that have not arrived, instead of hiding them. Unset "
        f"{_CONNECTIONS} in the job's script, or set it to 8."
    )


def _nccl_options(timeout: timedelta) -> Any:
    """Carries start before computing that is ready at the same time, and take few multiprocessors."""
    options: Any = dist.ProcessGroupNCCL.Options()  # pyright: ignore
    options.is_high_priority_stream = True
    options.config.min_ctas, options.config.max_ctas = 1, CHANNELS
    options._timeout = timeout  # else torch warns that its argument of this name wins
    return options
