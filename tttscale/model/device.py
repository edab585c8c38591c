"""From the host to the device, without making the host wait for what the device still has to do."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x, a tensor of the CPU, on the device.

    To a GPU it goes by way of pinned memory, in the order of the current stream: an ordinary copy returns
    only when everything launched before it has run.
    """
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
