"""Ranks that compute beside one that is measured."""

import os
import time
from pathlib import Path

import pytest

from tests.bench.test_calibrate import config
from tttscale.bench import companions as module
from tttscale.bench.calibrate import alone
from tttscale.bench.companions import Companions


def process(pid):
    """The state of a process, and the CPU seconds that it has taken."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return words[0], (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_it_computes_until_the_block_ends():
    with Companions(alone(config()), 64, 1) as beside:
        (companion,) = beside._running
        began = process(companion.pid)[1]
        until(lambda: process(companion.pid)[1] > began + 0.1)
        beside.pause()
        until(lambda: process(companion.pid)[0] == "T")
        paused = process(companion.pid)[1]
        beside.resume()
        until(lambda: process(companion.pid)[1] > paused)
    assert companion.returncode < 0


def test_one_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "READY", "never")
    broken = alone(config()).model_copy(update={"model": None})
    with pytest.raises(RuntimeError, match="a companion ended with"), Companions(broken, 64, 1):
        raise AssertionError
