"""What the scan is timed against computes the same."""

import pytest
import torch

from benchmarks.gpu.scan_time import SIZE, compiled
from benchmarks.problems import on, problem, scan


@pytest.mark.parametrize("batch", [1, 2])
def test_the_definition_under_torch_compile(batch, monkeypatch):
    """In fp64, also where it widens to fp32. It takes whole mini-batches only."""
    monkeypatch.setattr(torch, "compile", lambda step: step)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    leaves = on("cpu", problem("linear", 2, 16, 3 * SIZE, SIZE, batch), torch.float64)
    ours, _ = scan("linear", leaves, "torch")
    peer = compiled(leaves)()
    assert peer.dtype == ours.dtype == torch.float64
    assert (peer - ours).norm() < 1e-12 * ours.norm()
