"""Time that a device waits for messages: the host's on a CPU, the stream's on a GPU (simulated)."""

import time

import pytest
import torch

from tttscale.scan.wait_timer import WaitTimer


def test_on_a_cpu_the_host_waits():
    timer = WaitTimer(torch.device("cpu"))
    for _ in range(2):
        with timer.measure():
            time.sleep(0.02)
    time.sleep(0.05)
    assert timer.take_seconds() >= 0.04
    assert timer.take_seconds() == 0


class Stream:
    """A GPU's clock, in milliseconds, which moves while something waits there."""

    def __init__(self):
        self.now, self.log = 0.0, []


def test_on_a_gpu_the_stream_does(monkeypatch):
    stream = Stream()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = stream.now

        def elapsed_time(self, other):
            return other.at - self.at

        def synchronize(self):
            stream.log.append(self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer = WaitTimer(torch.device("cuda"))
    with timer.measure_host():
        stream.now += 70
    assert timer.take_seconds() == 0
    assert stream.log == []  # without a message nothing waits for the device
    for milliseconds in (3.0, 5.0):
        stream.now += 100
        with timer.measure():
            stream.now += milliseconds
    assert timer.take_seconds() == pytest.approx(0.008)
    assert timer.take_seconds() == 0
    assert stream.log == [278.0]
