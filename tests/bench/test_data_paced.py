"""The simulated consumer takes every token once, in order, at its rate."""

import numpy as np
import pytest

from tttscale.bench import data_paced
from tttscale.bench.data_paced import paced
from tttscale.data import ArraySplit, Windows


@pytest.mark.parametrize("spin", [False, True])
def test_all_chunks_are_taken_and_paid_for(spin, monkeypatch):
    idle = []
    monkeypatch.setattr(data_paced, "_idle", lambda seconds, spins: idle.append((seconds, spins)))
    split = ArraySplit([np.arange(101)])
    found = paced(Windows(split, 50, 0, 5), 20, rate=1000.0, count=2, spin=spin)
    assert found["tokens"] == 100
    assert found["consumer"] == ("spins" if spin else "sleeps")
    lengths = [(0.02, spin), (0.02, spin), (0.01, spin)] * 2
    assert idle == lengths * 2  # once with nothing to read, to compare with
    assert 0 <= found["first_wait_seconds"] <= found["wait_seconds"] <= found["seconds"]


@pytest.mark.parametrize("spin", [False, True])
def test_idling_takes_its_time(spin):
    split = ArraySplit([np.arange(41)])
    found = paced(Windows(split, 40, 0, 5), 20, rate=1000.0, count=1, spin=spin)
    assert 0.04 <= found["alone_seconds"] < 5
    assert found["seconds"] >= 0.04
