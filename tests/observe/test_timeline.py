"""Sums of what held a rank up, and traces: by the host's clock, or a GPU's stream's (simulated)."""

from itertools import pairwise

import pytest
import torch

from tttscale.observe import timeline as module
from tttscale.observe.timeline import Held, Timeline


class Task:
    def __init__(self, sequence, chunk):
        self.sequence, self.chunk = sequence, chunk


class Clock:
    """The host's clock, which only the test moves; a GPU's stream is behind or ahead of it."""

    def __init__(self, monkeypatch):
        self.now, self.stream = 100.0, 0.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        clock = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = clock.stream

            def elapsed_time(self, other):
                return (other.at - self.at) * 1e3

            def synchronize(self):
                clock.waited.append(self.at)

        self.waited = []
        monkeypatch.setattr(torch.cuda, "Event", Event)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def play(timeline, clock, steps, both=True):
    for seconds, activity, *rest in steps:
        timeline.begin(activity, *rest)
        clock.now += seconds
        clock.stream += seconds if both else 0


FIRST, SECOND = Task(0, 1), Task(0, 3)
SWEEP = [
    (1, "data", "forward", FIRST),
    (2, "project", "forward", FIRST, 0),
    (4, "wait", "forward", FIRST, 0, "state"),
    (8, "advance", "forward", FIRST, 0),
    (16, "send", "forward", FIRST, 0, "state"),
    (32, "readout", "forward", FIRST, 0),
    (64, "data", "forward", SECOND),
    (128, "wait", "forward", SECOND, 0, "state"),
    (256, "advance", "forward", SECOND, 0),
    (512, "flush"),
    (1024, "other"),
]


def test_what_holds_a_rank_up_is_summed_by_kind(clock):
    timeline = Timeline(torch.device("cpu"))
    play(timeline, clock, SWEEP)
    timeline.begin("idle")
    clock.now += 2048
    timeline.begin("reduce")
    clock.now += 4096
    timeline.begin("gather")
    clock.now += 8192
    timeline.begin("other")
    held = timeline.take()
    assert held == Held(4, 128, 16 + 512, 1 + 64, 2048, 4096, 8192)
    assert held.carries == 4 + 128 + 16 + 512
    assert timeline.take() == Held()


def test_after_a_sweep_the_next_chunk_is_a_first_one_again(clock):
    timeline = Timeline(torch.device("cpu"))
    play(timeline, clock, [*SWEEP, (3, "wait", "backward", SECOND), (5, "wait", "backward", FIRST)])
    timeline.begin("other")
    assert timeline.take()[:2] == (4 + 3, 128 + 5)


def test_a_rank_that_waits_for_nothing_in_its_first_chunk_has_no_ramp(clock):
    timeline = Timeline(torch.device("cpu"))
    play(timeline, clock, [(1, "project", "forward", FIRST), (2, "wait", "forward", SECOND)])
    timeline.begin("other")
    assert timeline.take()[:2] == (0, 2)


def test_a_trace_is_a_partition_of_the_time(clock):
    timeline = Timeline(torch.device("cpu"))
    timeline.begin("project")
    timeline.start_trace(bytes_in_use=lambda: 7)
    timeline.mark_step(3, 100.0, 200.0)
    timeline.note_read(1.0, 2.0, 0, 5)
    play(timeline, clock, SWEEP)
    spans, reads, steps, memory = timeline.end_trace()
    assert [s.activity for s in spans] == [step[1] for step in SWEEP]
    assert [s.end - s.begin for s in spans] == [step[0] for step in SWEEP]
    assert all(a.end == b.begin for a, b in pairwise(spans))
    assert spans[2] == (103, 107, "wait", "forward", 0, 1, 0, "state")
    assert (spans[-1].run, spans[-1].chunk) == ("", -1)
    assert [tuple(r)[:6] for r in reads] == [(1.0, 2.0, "read", "", 0, 5)]
    assert steps == [(3, 100.0, 200.0)]
    assert [size for _, size in memory] == [7, 7, 7]  # before every chunk, and at the end
    assert timeline.take() == Held(4, 128, 528, 65)  # summed as without a trace
    timeline.note_read(1.0, 2.0, 0, 5)
    assert len(reads) == 1


def test_a_trace_is_bounded_and_says_so(clock, monkeypatch):
    monkeypatch.setattr(module, "_MOST_SPANS", 5)
    timeline = Timeline(torch.device("cpu"))
    timeline.start_trace()
    play(timeline, clock, SWEEP[:4])
    assert not timeline.cut
    play(timeline, clock, SWEEP[4:])
    assert timeline.cut
    assert len(timeline.end_trace()[0]) == 4


def test_on_a_gpu_the_stream_says_when(clock):
    timeline = Timeline(torch.device("cuda"))
    timeline.begin("send")
    clock.now += 70  # the host alone
    timeline.begin("data")
    clock.now += 5  # the host waits for tokens
    timeline.begin("wait", "forward", FIRST)
    clock.stream += 3  # the stream waits, long after
    timeline.begin("advance", "forward", FIRST)
    assert clock.waited == []  # nothing waits for the device inside the step
    assert timeline.take() == Held(ramp=3, data=5)
    assert clock.waited == [3.0]


def test_a_gpus_trace_is_on_the_hosts_clock(clock):
    clock.stream = 1000.0
    timeline = Timeline(torch.device("cuda"))
    timeline.start_trace()
    assert clock.waited == [1000.0]  # once, before the step
    timeline.begin("project", "forward", FIRST, 0)
    clock.stream += 2
    timeline.begin("advance", "forward", FIRST, 0)
    clock.stream += 6
    spans, *_ = timeline.end_trace()
    assert [(s.begin, s.end) for s in spans] == [(100.0, 102.0), (102.0, 108.0)]
