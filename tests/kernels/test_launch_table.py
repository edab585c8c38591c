"""Launches that depend on Triton's version: none that reads what may not have been written."""

import itertools

import pytest
import torch

from tttscale.kernels.learners import SERIAL_PHASES
from tttscale.kernels.triton_scan import launch_table
from tttscale.kernels.triton_scan.launches import hopper

SHAPES = list(itertools.product((16, 32, 64, 96, 128), (16, 32, 64)))
KERNELS = ("targets", "advance", "readout", "readout_backward", "advance_backward", "gradients")
launch_of = launch_table.launch_of.__wrapped__


@pytest.mark.parametrize("version", [(3, 4, 0), (3, 6, 0), (3, 7, 0)])
def test_nothing_is_copied_ahead_of_unfenced_products(version, monkeypatch):
    monkeypatch.setattr(launch_table, "triton_version", lambda: version)
    for (dim, size), kernel in itertools.product(SHAPES, KERNELS):
        assert launch_of(90, "mlp", kernel, dim, size, torch.bfloat16).num_stages == 1
        found, table = (
            launch_of(90, "linear", kernel, dim, size, torch.bfloat16),
            hopper.linear(kernel, dim, size),
        )
        # TTT-Linear's chains have no such products, and lose nothing.
        assert found == table if kernel in SERIAL_PHASES else found.num_stages == 1
    assert launch_of(80, "mlp", "readout", 64, 16, torch.bfloat16).num_stages == 2


def test_the_table_is_taken_as_it_is_since(monkeypatch):
    monkeypatch.setattr(launch_table, "triton_version", lambda: (3, 7, 1))
    for (dim, size), kernel in itertools.product(SHAPES, KERNELS):
        table = hopper.mlp(kernel, dim, size)
        assert launch_of(90, "mlp", kernel, dim, size, torch.bfloat16) == table


@pytest.mark.parametrize("text", ["3.8.0+git675c5987", "3.8.0.post1"])
def test_the_version(text, monkeypatch):
    monkeypatch.setattr("triton.__version__", text)
    assert launch_table.triton_version.__wrapped__() == (3, 8, 0)
