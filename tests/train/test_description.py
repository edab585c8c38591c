"""What a run says of itself before its first step."""

from types import SimpleNamespace

import pytest
import torch

from tests.scan.helpers import tiny_model
from tests.train.small import small_config
from tttscale.comm.mesh import Mesh
from tttscale.scan.layout import Layout
from tttscale.scan.transport import SingleRank
from tttscale.train.description import describe


def component(path="stores/a", damaged=()):
    split = SimpleNamespace(name="train", damaged=list(damaged))
    train = SimpleNamespace(count=12345, fill=0.98765)
    return SimpleNamespace(path=path, train=train, splits={"train": split})


def said(config, *components, notices=(), ranks=1, replicas=1):
    parallel = config.parallel
    layout = Layout(parallel.layout, config.data.sequence_length, parallel.chunk_length, ranks)
    sweeps = SimpleNamespace(
        schedule=SimpleNamespace(layout=layout),
        device=torch.device("cpu"),
        model=tiny_model(config.architecture(), torch.float32),
    )
    mesh = Mesh(0, ranks * replicas, ranks, SingleRank())
    tokens = SimpleNamespace(components=components, notices=list(notices))
    return describe(config, mesh, sweeps, tokens)


def test_size_split_and_device(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    config = small_config(2)
    parameters = sum(p.numel() for p in tiny_model(config.architecture()).parameters())
    assert said(config, ranks=2, replicas=3)[0] == (
        f"small: {parameters:,} parameters, 44 tokens per sequence in 6 chunks of 8; 3 replica(s) x 2 "
        "sequence rank(s), striped, ZeRO 1, fp32 on cpu with 3 thread(s) a rank"
    )


@pytest.mark.parametrize(("sequence", "over"), [(2, True), (1, False)])
def test_what_carries_travel_over_is_said_where_any_travel(sequence, over):
    config = small_config(sequence)
    parallel = config.parallel.model_copy(update={"transport": "mpi"})
    config = config.model_copy(update={"parallel": parallel})
    first = said(config, ranks=sequence)[0]
    assert (f"x {sequence} sequence rank(s) over MPI, striped" in first) == over
    assert ("over MPI" in first) == over


def test_stores_in_their_order_after_what_is_remarkable():
    lines = said(small_config(), component(), component("b"), notices=["something"])
    assert lines[-3:] == [
        "something",
        "stores/a: 12,345 windows an epoch, 98.8% of their positions are tokens",
        "b: 12,345 windows an epoch, 98.8% of their positions are tokens",
    ]


def test_quarantined_tokens_are_said():
    lines = said(small_config(), component(damaged=[(0, 64), (1000, 3000)]))
    assert lines[-1] == (
        "stores/a: 2,064 tokens of train in 2 ranges are quarantined and read as padding"
    )
