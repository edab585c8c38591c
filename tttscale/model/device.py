"""Which device a process computes on; and copies to it that do not make the host wait for the device."""

import torch
from torch import Tensor

from tttscale.errors import LaunchError


def choose_device(asked: str, local_rank: int, name: str, remedy: str) -> torch.device:
    """Return the CPU or a process's own GPU, which becomes the current one.

    Args:
        asked: auto, cpu or cuda.
        local_rank: of the process among those on this host.
        name: of the key or flag that asks.
        remedy: what takes the CPU instead.

    Raises:
        LaunchError: more processes on this host than GPUs, or no GPU where one was asked for.
    """
    gpus = torch.cuda.device_count()
    if asked == "cpu" or (asked == "auto" and gpus == 0):
        return torch.device("cpu")
    if local_rank >= gpus:
        raise LaunchError(
            f"{name} = {asked}: local rank {local_rank} needs a GPU, this host has {gpus}. "
            f"Start fewer processes per host, or set {remedy}."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x, a tensor of the CPU, on the device.

    To a GPU it goes by way of pinned memory, in the order of the current stream: an ordinary copy returns
    only when everything launched before it has run.
    """
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
