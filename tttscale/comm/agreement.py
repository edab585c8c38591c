"""What all ranks have to agree on, compared before anything else is sent."""

import json
from collections.abc import Mapping

import torch
import torch.distributed as dist

from tttscale.errors import LaunchError

_SHOWN = 3


def check_agreement(own: Mapping[str, str]) -> None:
    """Compare with rank 0's over gloo; every rank of the default group calls this.

    Args:
        own: values by the name that a user knows them by.

    Raises:
        LaunchError: a rank has other values than rank 0; all ranks raise it.
    """
    first, *others = (json.loads(text) for text in texts_of_all_ranks(json.dumps(dict(own))))
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


def texts_of_all_ranks(text: str, group: dist.ProcessGroup | None = None) -> list[str]:
    """Everybody's text, in rank order; over gloo, every rank calls this.

    Args:
        text: this rank's.
        group: of all ranks; None: the default group.
    """
    own = text.encode(errors="surrogateescape")  # a path may be no UTF-8
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(own)]), group=group)
    longest = int(max(lengths))
    mine = torch.frombuffer(bytearray(own.ljust(longest + 1)), dtype=torch.uint8)
    rows = [torch.empty_like(mine) for _ in lengths]
    dist.all_gather(rows, mine, group=group)
    return [
        bytes(row[: int(length)].tolist()).decode(errors="surrogateescape")
        for row, length in zip(rows, lengths, strict=True)
    ]
