"""Why a step takes long: causes in virtual time, each with what it costs; and a few that are rehearsed."""

import math
import random
from dataclasses import replace

import pytest

from tests.campaigns import slow_causes
from tests.campaigns.sleeping_ranks import Fault, Setting
from tests.traces import MICROSECONDS, make_trace
from tttscale.observe.causes import Cause, diagnose
from tttscale.observe.overlap import analyse
from tttscale.observe.spans import RankTrace, Span, StepMark, Trace
from tttscale.observe.wave import Wave


def only(trace, **options):
    causes = diagnose(trace, **options)
    assert len(causes) == 1, causes
    return causes[0]


def step_seconds(trace):
    return analyse(trace).mean("seconds")


def with_gaps(trace, rank, activity, seconds):
    """The trace with something that one rank does after every step, while the others wait."""
    ranks, steps = [], len(trace.ranks[0].steps)
    for one in trace.ranks:
        ends = [mark.end for mark in one.steps]

        def later(at, ends=ends):
            return at + seconds * sum(at >= end for end in ends)

        spans = [
            s._replace(begin=later(s.begin), end=later(s.begin) + s.end - s.begin)
            for s in one.spans
        ]
        marks = [
            StepMark(m.step, later(m.begin), later(m.begin) + m.end - m.begin) for m in one.steps
        ]
        name = activity if one.rank == rank else "idle"
        spans += [Span(mark.end, mark.end + seconds, name) for mark in marks]
        ranks.append(replace(one, spans=sorted(spans), steps=marks))
    assert steps
    return replace(trace, ranks=ranks)


# ---- one cause at a time, in virtual time ------------------------------------------------------


def test_nothing_is_wrong():
    cause = only(make_trace(4, 32, 4))
    assert cause.kind == "none"
    assert "nothing to change" not in cause.next_step  # advice on settings may stand beside it
    assert cause.evidence.startswith("no fault stands out")
    assert "compute 9" in cause.evidence
    assert 0 < cause.share < 0.1


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("ranks", [3, 8])
def test_a_slow_rank(ranks, rank):
    slow, sound = (make_trace(ranks, 8 * ranks, 4, slow=factors) for factors in ({rank: 1.5}, {}))
    cause = only(slow)
    assert (cause.kind, cause.rank) == ("slow rank", rank)
    assert cause.factor == pytest.approx(1.5, rel=0.02)
    assert cause.seconds == pytest.approx(step_seconds(slow) - step_seconds(sound), rel=0.2)
    assert f"rank {rank} takes 1.5" in cause.evidence


@pytest.mark.parametrize("edge", [(0, 1), (2, 3), (3, 0), (1, 0), (0, 3)])
def test_a_slow_edge(edge):
    late = 10e-3 if edge in ((0, 1), (2, 3), (3, 0)) else 20e-3  # a gradient may be later unnoticed
    slow, sound = (make_trace(4, 32, 8, steps=2, delays=delays) for delays in ({edge: late}, {}))
    cause = only(slow)
    assert (cause.kind, cause.sender, cause.receiver) == ("slow edge", *edge)
    assert cause.seconds == pytest.approx(step_seconds(slow) - step_seconds(sound), rel=0.5)
    assert cause.factor > 100
    assert f"from rank {edge[0]} to rank {edge[1]}" in cause.evidence


@pytest.mark.parametrize("edge", [(0, 1), (1, 0)])
def test_a_slow_edge_of_contiguous_ranks(edge):
    trace = make_trace(2, 8, 8, layout="contiguous", delays={edge: 8e-3}, steps=2)
    causes = {cause.kind: cause for cause in diagnose(trace)}
    assert causes.keys() <= {"slow edge", "layout"}
    assert (causes["slow edge"].sender, causes["slow edge"].receiver) == edge


def test_a_late_edge_that_is_hidden_costs_nothing():
    assert only(make_trace(4, 32, 8, delays={(1, 2): 1e-3})).kind == "none"


def test_edges_between_hosts_are_compared_with_their_like():
    """They are slower, and that is no fault."""
    trace = make_trace(4, 32, 4, hosts=2, delays={(1, 2): 6e-3, (3, 0): 6e-3})
    assert "slow edge" not in {cause.kind for cause in diagnose(trace)}


def test_edges_that_have_no_like_are_compared_with_what_was_expected():
    trace = make_trace(2, 2, 8, delays={(0, 1): 5e-3, (1, 0): 5e-3}, steps=2)
    trace.ranks[1].host = "elsewhere"
    for rank in trace.ranks:  # only states: one edge
        rank.spans = [
            s for s in rank.spans if s.run != "backward" or s.activity not in ("wait", "send")
        ]
    asked = []

    def expected(sender, receiver, part):
        asked.append((sender, receiver, part))
        return 30e-6

    causes = {cause.kind: cause for cause in diagnose(trace, expected=expected)}
    assert "expected" in causes["slow edge"].evidence
    assert {(a, b) for a, b, _ in asked} == {(0, 1)}
    assert "slow edge" not in {cause.kind for cause in diagnose(trace)}


def test_a_network_that_is_slow_everywhere():
    edges = [(a, b) for a in range(4) for b in range(4)]
    cause = only(make_trace(4, 32, 4, delays=dict.fromkeys(edges, 3e-3)))
    assert cause.kind == "slow network"
    assert cause.share > 0.1


def test_too_long_chunks():
    """One chunk per rank, and a second for one of them."""
    for ranks, chunks in ((4, 5), (6, 7), (8, 6)):
        trace = make_trace(ranks, chunks, 2, kept=0)
        cause = only(trace)
        assert (cause.kind, cause.key) == ("long chunk", "parallel.chunk_length")
        cut = int(cause.factor)
        cost = {name: value / cut for name, value in MICROSECONDS.items() if name != "send"}
        shorter = make_trace(ranks, chunks * cut, 2, kept=0, cost=cost)
        saved = step_seconds(trace) - step_seconds(shorter)
        assert cause.seconds == pytest.approx(saved, rel=0.3)


def test_chunks_are_not_cut_below_a_mini_batch():
    trace = make_trace(4, 5, 2)
    trace.facts["mini_batch_tokens"] = 64  # as long as a chunk
    assert only(trace).kind == "none"
    trace.facts["mini_batch_tokens"] = 32
    assert "divide `parallel.chunk_length` by 2" in only(trace).next_step


def test_contiguous_ranks_wait_for_their_neighbours():
    trace = make_trace(4, 16, 4, layout="contiguous")
    cause = only(trace)
    assert (cause.kind, cause.key) == ("layout", "parallel.layout")
    striped = step_seconds(make_trace(4, 16, 4))
    assert step_seconds(trace) - cause.seconds == pytest.approx(striped, rel=0.1)


def test_more_ranks_than_the_chain_allows():
    trace = make_trace(8, 64, 1, kept=0, cost=dict(advance=600.0))
    cause = next(cause for cause in diagnose(trace) if cause.kind == "chain")
    wave = Wave.of(trace, analyse(trace))
    useful = wave.work_seconds / wave.chain_seconds
    assert cause.key == "parallel.sequence"
    assert cause.factor == pytest.approx(8 / useful)
    assert f"use {math.ceil(useful)} ranks" in cause.next_step
    fewer = make_trace(math.ceil(useful), 64, 1, kept=0, cost=dict(advance=600.0))
    assert step_seconds(fewer) < 1.1 * step_seconds(trace)


@pytest.mark.parametrize("activity", ["record", "checkpoint"])
def test_one_rank_holds_up_the_others_between_steps(activity):
    trace = make_trace(3, 24, 4, steps=3)
    cause = only(with_gaps(trace, 1, activity, 0.02))
    assert (cause.kind, cause.rank) == (f"slow {activity}".replace("record", "records"), 1)
    assert cause.seconds == pytest.approx(0.02)
    assert cause.share == pytest.approx(0.02 / (step_seconds(trace) + 0.02), rel=0.01)
    assert only(with_gaps(trace, 1, "idle", 0.02)).kind == "none"


def test_slow_data():
    slow, sound = (make_trace(3, 24, 4, steps=3, data=data) for data in ({1: 1e-3}, {}))
    cause = only(slow)
    assert (cause.kind, cause.rank, cause.key) == ("slow data", 1, "data.store")
    assert cause.seconds == pytest.approx(step_seconds(slow) - step_seconds(sound), rel=0.2)


def test_a_hiccup_is_no_cause():
    trace = make_trace(2, 16, 4, steps=3)
    spans = trace.ranks[1].spans
    spans[5:40] = [span._replace(activity="data") for span in spans[5:40]]
    assert only(trace).kind == "none"


def test_the_most_costly_cause_comes_first():
    trace = with_gaps(make_trace(3, 24, 4, slow={2: 1.2}, steps=3), 0, "record", 0.2)
    kinds = [cause.kind for cause in diagnose(trace)]
    assert kinds == ["slow records", "slow rank"]
    trace = with_gaps(make_trace(3, 24, 4, slow={2: 1.5}, steps=3), 0, "record", 0.005)
    assert diagnose(trace)[0].kind == "slow rank"


def test_ranks_are_named_as_in_the_world():
    """A trace may hold some of a job's ranks."""
    trace = make_trace(4, 32, 4, slow={2: 1.5})
    for rank in trace.ranks:
        rank.rank += 8
    assert only(trace).rank == 10


def test_a_rank_alone_and_an_empty_trace():
    assert only(make_trace(1, 8, 2)).kind == "none"
    empty = Trace("measured", [RankTrace(0)])
    assert diagnose(empty) == []


def test_ranks_that_are_slow_in_turns():
    """No rank, edge or choice is to blame when processors are busy with something else."""
    trace = make_trace(3, 24, 4, steps=3)
    turns = [make_trace(3, 24, 4, slow={rank: 1.6}).ranks for rank in range(3)]
    ranks = []
    for rank in trace.ranks:
        spans, marks, now = [], [], 0.0
        for step, turn in enumerate(turns):
            own = turn[rank.rank]
            spans += [s._replace(begin=s.begin + now, end=s.end + now) for s in own.spans]
            end = max(other.steps[0].end for other in turn)
            marks.append(StepMark(step, now, now + end))
            now += end
        ranks.append(replace(rank, spans=spans, steps=marks))
    cause = only(replace(trace, ranks=ranks))
    assert cause.kind == "none"
    assert "slow in turns" in cause.next_step


# ---- the campaign ------------------------------------------------------------------------------


def test_a_verdict():
    setting = Setting(4, 8, 2, "contiguous", 0.001, 0.1)
    episode = slow_causes.Episode(Fault("slow rank", 2, factor=1.5), setting, ("layout",))

    def cause(kind, **place):
        return Cause(kind, 1.0, 0.1, "", "", **place)

    right = cause("slow rank", rank=2)
    assert slow_causes.is_right(episode, [right])
    assert slow_causes.is_right(episode, [cause("layout"), right])
    assert not slow_causes.is_right(episode, [cause("slow rank", rank=1)])
    assert not slow_causes.is_right(episode, [right, cause("long chunk")])
    assert not slow_causes.is_right(episode, [cause("slow edge", sender=1, receiver=2)])
    assert not slow_causes.is_right(episode, [cause("none")])
    assert not slow_causes.is_right(episode, [])
    control = slow_causes.Episode(Fault(), setting)
    assert slow_causes.is_right(control, [cause("none")])
    assert not slow_causes.is_right(control, [right])


def test_every_kind_takes_its_turn():
    drawn = list(slow_causes.episodes(50, 6, seed=1))
    assert len(drawn) == 50
    assert [episode.processes for episode in drawn] == [False] * 44 + [True] * 6
    for kind in slow_causes.KINDS:
        assert sum(episode.fault.kind == kind for episode in drawn) >= 4, kind
    again = list(slow_causes.episodes(50, 6, seed=1))
    assert again == drawn
    for kind in ("slow edge", "slow rank"):
        places = {e.where for e in drawn if e.fault.kind == kind}
        assert len(places) > 2, kind


@pytest.mark.parametrize("kind", ["slow edge", "slow rank", "slow data", "long chunk"])
def test_a_rehearsed_cause_is_found(kind):
    """Real sweeps and timelines, two to four ranks. A machine that is busy may need a second try."""
    slow_causes.warm_up()
    drawn = (slow_causes.drawn(random.Random(seed), kind) for seed in range(100))
    episode = next(
        e for e in drawn if e.setting.ranks <= 4 and e.setting.own <= 7 and e.setting.layers <= 4
    )
    results = (slow_causes.run(episode, most_attempts=2) for _ in range(3))
    assert any(result.right for result in results), episode
