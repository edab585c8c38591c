"""The GPU rounds run to their end on a CPU, small. That the scripts start them: tests/launch."""

import itertools
import json

import pytest
import torch

from benchmarks.gpu import check, tune
from benchmarks.gpu import round as gpu_round
from benchmarks.gpu.tune_worker import candidates
from tests import warm
from tttscale.kernels.triton_scan.launch_table import launch_of


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Workers have everything imported already."""
    monkeypatch.setattr(gpu_round, "run_lines", warm.run_lines)


def test_gpu_check_without_a_gpu(tmp_path):
    assert check.main(tmp_path / "gpu_check", 1200) == 0
    text = (tmp_path / "gpu_check.md").read_text()
    assert "Against fp64" in text
    data = json.loads((tmp_path / "gpu_check.json").read_text())["data"]
    pointwise = data["pointwise"]
    assert {row["operator"] for row in pointwise} == {
        *("norm", "add_norm", "swiglu", "gated_norm", "queries_and_keys", "cross_entropy")
    }
    assert all(row["error"] < 1e-5 for row in pointwise)
    assert "| linear | 1 | 64 |" in text
    assert len(data["errors"]) == 4
    assert all(row["same_bits"] and not row["host_waits"] for row in data["errors"])
    assert not data["missing"]


def test_gpu_tune_without_a_gpu(tmp_path):
    """One kernel under the table's launch and under another; the results agree."""
    assert tune.main(tmp_path / "tune.2") == 0
    rows = json.loads((tmp_path / "tune.2.json").read_text())["data"]
    assert [row["now"] for row in rows] == [True, False]
    assert all(row["right"] and row["us_per_step"] > 0 for row in rows)


def test_every_launch_tried_is_another_one():
    for kind, kernel in itertools.product(("linear", "mlp"), tune.KERNELS):
        now = launch_of(90, kind, kernel, 64, 16, torch.bfloat16)
        tried = candidates(kind, kernel, now)
        assert tried[0] == now
        assert len(set(tried)) == len(tried) >= 6
