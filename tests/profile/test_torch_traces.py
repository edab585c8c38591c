"""torch.profiler's own traces; that every rank of a job writes one is seen in test_main.py."""

import gzip
import json

import torch

from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes
from tttscale.profile.torch_traces import trace_with_torch


def traced(ranks, folder, fails=False):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))

    def run_steps(steps):
        assert steps == 1
        torch.ones(8, 8) @ torch.ones(8, 8)
        if fails:
            raise KeyboardInterrupt

    trace_with_torch(folder, mesh, torch.device("cpu"), run_steps)
    mesh.close()


def test_every_rank_has_its_name_and_metadata(tmp_path):
    values(run_ranks(traced, 2, tmp_path / "torch"))
    for rank in range(2):
        data = (tmp_path / f"torch/rank-{rank}.json.gz").read_bytes()
        value = json.loads(gzip.decompress(data))
        assert value["distributedInfo"]["rank"] == rank
        assert value["distributedInfo"]["world_size"] == 2
        assert any("mm" in event.get("name", "") for event in value["traceEvents"])
    assert len(list((tmp_path / "torch").iterdir())) == 2


def test_an_interrupted_one_leaves_nothing(tmp_path):
    ((kind, *_),) = run_ranks(traced, 1, tmp_path / "torch", True)
    assert kind == "KeyboardInterrupt"
    assert not (tmp_path / "torch").exists()
