"""The merged trace file, checked as a viewer reads it."""

import gzip
import json
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from tests.traces import PARTS, make_trace
from tttscale.observe.perfetto import find_arrows, perfetto_events, write_perfetto
from tttscale.observe.spans import Span


def check(events):
    """What viewers rely on: nesting, order, arrows that begin and end inside spans."""
    tracks, flows, last = defaultdict(list), defaultdict(dict), {}
    for event in events:
        assert {"ph", "pid", "tid", "ts", "name"} <= set(event)
        track = event["pid"], event["tid"]
        if event["ph"] == "X":
            assert event["dur"] > 0
            assert event["cat"]
            assert event["ts"] >= last.get(track, 0.0), "time goes back in a track"
            last[track] = event["ts"]
            tracks[track].append((event["ts"], event["ts"] + event["dur"], event["name"]))
        elif event["ph"] in "sf":
            assert event["ph"] not in flows[event["id"]]
            flows[event["id"]][event["ph"]] = event
        elif event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
        else:
            assert event["ph"] == "M"
    for spans in tracks.values():
        open_ends = []
        for begin, end, name in spans:
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1], f"{name} ends after what it lies in"
            open_ends.append(end)
    for ends in flows.values():
        assert set(ends) == {"s", "f"}
        for event in ends.values():
            spans = tracks[event["pid"], event["tid"]]
            assert any(b <= event["ts"] < e for b, e, _ in spans), "an arrow beside all spans"
        assert ends["s"]["name"] == ends["f"]["name"]
        assert ends["s"]["cat"] == ends["f"]["cat"]
    return tracks, flows


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"ranks": 4, "chunks": 12, "sequences": 2, "steps": 2, "kept": 0},
        {"ranks": 3, "chunks": 9, "layout": "contiguous", "replicas": 2, "hosts": 2},
        {"ranks": 1, "chunks": 3},
    ],
)
def test_tracks_nest_and_arrows_join(shape):
    trace = make_trace(**shape)
    events, cut = perfetto_events(trace)
    tracks, flows = check(events)
    assert cut == ""
    assert len([t for t in tracks if t[1] % 2]) == len(trace.ranks)
    sends = sum(s.activity == "send" for rank in trace.ranks for s in rank.spans)
    assert len(flows) == sends
    for rank in trace.ranks:
        names = Counter(name for _, _, name in tracks[rank.replica + 1, 2 * rank.rank + 1])
        assert sum(n for name, n in names.items() if name.startswith("step ")) == len(rank.steps)
        solid = [s for s in rank.spans if s.end - s.begin > 1e-6 and s.activity == "advance"]
        assert names["advance"] == len(solid)


def test_arrows_lead_from_each_send_to_the_wait_it_ends():
    trace = make_trace(ranks=3, chunks=6, layers=2, steps=2)
    arrows = find_arrows(trace)
    assert len(arrows) == 2 * 2 * 5 * 2 * len(PARTS)  # steps, directions, boundaries, layers, parts
    for arrow in arrows:
        forward = arrow.run == "forward"
        left, right = arrow.boundary % 3, (arrow.boundary + 1) % 3
        assert (arrow.source, arrow.target) == ((left, right) if forward else (right, left))
        assert arrow.sent < arrow.received
    waited = sum(s.end - s.begin for r in trace.ranks for s in r.spans if s.activity == "wait")
    assert sum(arrow.waited_seconds for arrow in arrows) == pytest.approx(waited)


def test_replicas_do_not_send_to_each_other():
    arrows = find_arrows(make_trace(ranks=2, replicas=3, chunks=4))
    assert all(arrow.source // 2 == arrow.target // 2 for arrow in arrows)


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_file(tmp_path, name):
    trace = make_trace(steps=2, hosts=2)
    trace.ranks[0].host = '<b>"node"</b>\u2028'
    trace.ranks[1].clock_error_seconds = 3e-6
    path = tmp_path / name
    assert write_perfetto(path, trace) == ""
    data = path.read_bytes()
    value = json.loads(gzip.decompress(data) if name.endswith("gz") else data)
    check(value["traceEvents"])
    assert value["otherData"]["origin"] == "measured"
    assert value["otherData"]["clock of rank 1"] == "+- 3.0 us"
    names = [e["args"]["name"] for e in value["traceEvents"] if e["name"] == "thread_name"]
    assert names[0] == 'rank 0 (<b>"node"</b>\u2028, cpu)'
    assert [p.name for p in tmp_path.iterdir()] == [name]
    write_perfetto(path, trace)
    assert path.read_bytes() == data


@pytest.mark.parametrize("most", [300, 1000, 4000])
def test_bounded(most):
    trace = make_trace(ranks=4, chunks=16, layers=4, steps=3)
    events, cut = perfetto_events(trace, most)
    check(events)
    assert len(events) < most + 20  # and names
    assert "steps 2 to 3 left out" in cut
    assert ("joined with their neighbours" in cut) == (most < 4000)
    assert any(event["ph"] == "s" for event in events)


def test_activities_that_go_on_over_the_end_of_a_step_are_cut_there():
    trace = make_trace(steps=2)
    for rank in trace.ranks:
        rank.steps = [m._replace(begin=m.begin + 3e-6, end=m.end + 2e-6) for m in rank.steps]
    tracks, _ = check(perfetto_events(trace)[0])
    assert {name for _, _, name in tracks[1, 1]} >= {"step 1", "step 2"}


def test_spans_of_no_length_and_numbers_beyond_any():
    trace = make_trace()
    spans = [Span(0.0, 0.0, "wait", "forward", 0, 1, 0, "state"), Span(0.0, 1e-9, "idle")]
    trace.ranks[0] = replace(trace.ranks[0], spans=spans)
    trace.ranks[1] = replace(trace.ranks[1], spans=[], steps=[])
    check(perfetto_events(trace)[0])
