"""What all ranks have to agree on, compared before anything else is sent."""

import json
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from tttscale.errors import LaunchError

_SHOWN = 3


def check_agreement(own: Mapping[str, str]) -> None:
    """Compare with rank 0's over gloo; every rank of the default group calls this.

    Args:
        own: values by the name that a user knows them by.

    Raises:
        LaunchError: a rank has other values than rank 0; all ranks raise it.
    """
    first, *others = (json.loads(bytes(row.tolist())) for row in _of_all_ranks(own))
    for rank, other in enumerate(others, start=1):
        different = [key for key in {**first, **other} if first.get(key) != other.get(key)]
        if different:
            found, expected = (
                ", ".join(f"{key} = {values.get(key, 'nothing')}" for key in different[:_SHOWN])
                for values in (other, first)
            )
            raise LaunchError(
                f"rank {rank} runs with {found}, rank 0 with {expected}"
                f"{f' ({len(different)} differences in all)' if len(different) > _SHOWN else ''}. "
                "Start all ranks with the same file, overrides and version."
            )


def _of_all_ranks(own: Mapping[str, str]) -> list[Tensor]:
    """Everybody's values as JSON, uint8, spaces behind the shorter ones."""
    text = json.dumps(dict(own)).encode()
    longest = torch.tensor([len(text)])
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    mine = torch.frombuffer(bytearray(text.ljust(int(longest))), dtype=torch.uint8)
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, mine)
    return rows
