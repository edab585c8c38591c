"""Sums that are begun at different times on different ranks, and the end of a rank meanwhile."""

import os
import time
from types import SimpleNamespace

import pytest
import torch

from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes
from tttscale.comm.background_sums import BackgroundSums

CPU = torch.device("cpu")


def sums(ranks):
    mesh = meshes.start(ranks, 1, CPU)
    background = BackgroundSums(mesh, CPU)
    found = []
    for step in range(3):
        tensors = [torch.full((n,), float(10 * step + ranks.rank + n)) for n in (5, 1, 1000, 7)]
        time.sleep(0.1 * ((ranks.rank + step) % 3))  # another rank is the last one each time
        for tensor, owner in zip(tensors, (None, 0, 1, 2), strict=True):
            background.begin(tensor, owner)
            mesh.gather([0.0])  # another collective between them
        background.all_begun()
        background.wait()
        found.append([t.tolist() for t in tensors])
        background.wait()  # for nothing
    return found


def test_each_owner_has_its_sum():
    per_rank = values(run_ranks(sums, 3))
    for step in range(3):
        for place, (n, owner) in enumerate(((5, None), (1, 0), (1000, 1), (7, 2))):
            expected = [3.0 * (10 * step + n) + 3] * n
            for rank, found in enumerate(per_rank):
                if owner in (None, rank):
                    assert found[step][place] == expected


def lost(ranks):
    mesh = meshes.start(ranks, 1, CPU)
    background = BackgroundSums(mesh, CPU)
    background.begin(torch.zeros(1000), None)
    if ranks.rank == 1:
        time.sleep(0.5)
        os._exit(3)
    background.begin(torch.zeros(1000), None)
    background.begin(torch.zeros(1000), 0)
    background.wait()


def test_the_end_of_a_rank_is_noticed():
    first, second = run_ranks(lost, 2, timeout_seconds=60)
    assert first[0] == "PeerError"
    assert "rank 0 lost another rank in the reduction of gradients" in first[1]
    assert second[0] == "Died"


def test_nccl_has_no_sum_before_all_that_others_need_is_launched(monkeypatch):
    log = []
    stream = SimpleNamespace(
        wait_event=lambda event: log.append(event), record_event=lambda: f"event {len(log)}"
    )
    current = SimpleNamespace(record_event=lambda: "computed")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: pytest.MonkeyPatch.context())
    background = object.__new__(BackgroundSums)
    background._asked, background._works, background._stream = [], [], stream
    monkeypatch.setattr(background, "_begin", lambda values, owner: log.append((values, owner)))
    background.begin("first", None)
    background.begin("second", 1)
    assert log == []
    background.all_begun()
    background.all_begun()
    assert log == ["computed", ("first", None), "computed", ("second", 1)]
