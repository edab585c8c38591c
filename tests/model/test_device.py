"""Which device is chosen, and copies to it."""

import pytest
import torch

from tttscale.errors import LaunchError
from tttscale.model.device import choose_device, to_device


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


@pytest.mark.parametrize(
    ("asked", "gpus", "local_rank", "found"),
    [
        ("auto", 0, 0, "cpu"),
        ("cpu", 2, 1, "cpu"),
        ("auto", 2, 1, "cuda:1"),
        ("cuda", 1, 0, "cuda:0"),
    ],
)
def test_the_device_of_a_process(monkeypatch, asked, gpus, local_rank, found):
    current = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    assert choose_device(asked, local_rank, "--device", "--device cpu") == torch.device(found)
    assert current == ([local_rank] if found != "cpu" else [])


@pytest.mark.parametrize(("asked", "gpus"), [("cuda", 0), ("auto", 1), ("cuda", 1)])
def test_more_processes_than_gpus(monkeypatch, asked, gpus):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    said = f"--device = {asked}: local rank 1 needs a GPU, this host has {gpus}. .* or set --device cpu"
    with pytest.raises(LaunchError, match=said):
        choose_device(asked, 1, "--device", "--device cpu")
