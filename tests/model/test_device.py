"""Copies to a device."""

import torch

from tttscale.model.device import to_device


class Host:
    """A tensor of the CPU that notes how it is copied."""

    def __init__(self):
        self.log = []

    def pin_memory(self):
        self.log.append("pinned")
        return self

    def to(self, device, **how):
        self.log.append((device.type, how))
        return self


def test_a_copy_to_a_gpu_is_pinned_and_does_not_block():
    x = Host()
    to_device(x, torch.device("cuda", 1))
    assert x.log == ["pinned", ("cuda", {"non_blocking": True})]


def test_on_the_cpu_there_is_nothing_to_copy():
    x = torch.ones(3)
    assert to_device(x, torch.device("cpu")) is x
