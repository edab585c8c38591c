from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.plan.helpers import PARTS, schedule, simple_costs
from tttscale.config import load_config
from tttscale.plan.costs import assumed
from tttscale.plan.program import Programs
from tttscale.plan.simulate import simulate
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import ChunkTask, Phase, Schedule
from tttscale.scan.timeline import Run

FORWARD, BACKWARD = 3.75, 7.5
"""Seconds of a layer's runs in `simple_costs`."""


def no_bytes(key):
    return 0


def test_one_rank_computes_all_the_time():
    found = simulate(schedule(ranks=1), no_bytes, simple_costs(embed=0.1, head=0.4), kept=1)
    forward, backward = 0.1 + 2 * FORWARD, 0.2 + 0.2 + 2 * BACKWARD
    # The head runs where a chunk's graph is built: in recomputations, and in a kept chunk's first run.
    assert found.seconds == pytest.approx(4 * forward + 3 * forward + 4 * 0.4 + 4 * backward)
    assert found.busy_seconds == pytest.approx([found.seconds])
    assert found.starved_seconds == found.exposed_seconds == found.ramp_seconds == [0]


def test_two_ranks_by_hand():
    """One layer, one part, a chunk on each rank, all kept; a message takes a second."""
    costs = simple_costs(layers=1, wire=(1.0, 1e12))
    found = simulate(schedule(chunks=2, layers=1, parts=("state",)), no_bytes, costs)
    # Rank 0 sends at 1.25, rank 1 has projected at 1 and advances at 2.25: done at 2.25 + .25 + .5 + 2 = 5.
    # Its backward sends after finish 4, readout 1, advance .5 at 10.5; rank 0 has it at 11.5.
    first_done = 11.5 + 0.5 + 2.0
    assert found.seconds == pytest.approx(first_done)
    assert found.busy_seconds == pytest.approx([FORWARD + BACKWARD] * 2)
    assert found.exposed_seconds == pytest.approx([1.0, 1.0])
    # Rank 0 has done finish and readout at 3.75 + 5; rank 1 is done at 12.5.
    assert found.ramp_seconds == pytest.approx([10.5 - 8.75, 0.25 + first_done - 12.5])
    assert found.starved_seconds == [0, 0]
    assert found.chain_seconds == pytest.approx(2 * (0.25 + 0.5) + 2)


def test_tails_are_exchanged_inside_the_projections():
    costs = simple_costs(layers=1, wire=(0.5, 1e12))
    found = simulate(schedule(chunks=2, layers=1), no_bytes, costs, trace=True)
    spans = [s for s in found.trace.ranks[1].spans if s.run == "forward"]
    assert [(s.activity, s.part) for s in spans] == [
        ("embed", ""),
        *(("project", ""), ("wait", "pre_conv"), ("project", ""), ("wait", "qk_conv")),
        *(("project", ""), ("wait", "state"), ("advance", ""), ("readout", ""), ("finish", "")),
        ("head", ""),
    ]
    spans = [s for s in found.trace.ranks[1].spans if s.run == "backward"]
    assert [(s.activity, s.part) for s in spans] == [
        *(("head", ""), ("finish", ""), ("readout", ""), ("advance", ""), ("send", "state")),
        *(("project", ""), ("send", "qk_conv"), ("project", ""), ("send", "pre_conv")),
        *(("project", ""), ("embed", "")),
    ]


GRID = [
    ("striped", 4, 2, 1, 1),
    ("striped", 9, 4, 1, 0),
    ("striped", 9, 4, 1, 1.5),
    ("striped", 7, 3, 2, 2),
    ("striped", 3, 5, 1, 1),
    ("striped", 8, 4, 4, 3),
    ("contiguous", 4, 4, 1, 0),
    ("contiguous", 6, 2, 2, 1),
]


@pytest.mark.parametrize(("kind", "chunks", "ranks", "sequences", "kept"), GRID)
def test_every_second_is_accounted_for(kind, chunks, ranks, sequences, kept):
    case = schedule(kind, chunks, ranks, sequences)
    costs = simple_costs(wire=(0.01, 1e3), send=0.02, per_token=0.01, embed=0.1, head=0.3)
    found = simulate(case, lambda key: 8, costs, kept=kept, ranks_per_host=2, trace=True)
    parts = zip(
        found.busy_seconds,
        found.ramp_seconds,
        found.starved_seconds,
        found.exposed_seconds,
        strict=True,
    )
    assert [sum(p) for p in parts] == pytest.approx([found.seconds] * ranks)
    merged = simulate(case, lambda key: 8, costs, kept=kept, ranks_per_host=2)
    assert merged.seconds == pytest.approx(found.seconds)
    assert merged.ramp_seconds == pytest.approx(found.ramp_seconds)
    for rank, trace in enumerate(found.trace.ranks):
        spans = trace.spans
        assert spans[0].begin == 0
        assert spans[-1].end == pytest.approx(found.seconds)
        assert all(a.end == pytest.approx(b.begin) for a, b in pairwise(spans))
        held = {"wait", "send", "flush", "idle"}
        busy = sum(s.end - s.begin for s in spans if s.activity not in held)
        assert busy == pytest.approx(found.busy_seconds[rank])


@pytest.mark.parametrize(("kind", "chunks", "ranks", "sequences", "kept"), GRID)
def test_every_message_is_sent_before_it_arrives(kind, chunks, ranks, sequences, kept):
    case = schedule(kind, chunks, ranks, sequences)
    costs = simple_costs(wire=(0.01, 1e3))
    found = simulate(case, lambda key: 8, costs, kept=kept, trace=True)
    sent, waited = {}, {}
    for trace in found.trace.ranks:
        for span in trace.spans:
            if span.activity in ("send", "wait"):
                key = span.run, span.sequence, span.boundary, span.layer, span.part
                (sent if span.activity == "send" else waited)[key] = span.end
    assert sent.keys() == waited.keys()
    assert len(sent) == sum(
        len(list(case.incoming(rank, phase))) for rank in range(ranks) for phase in Phase
    )
    assert all(waited[key] >= sent[key] + 0.018 - 1e-9 for key in sent)


def test_messages_of_a_link_leave_one_after_the_other():
    """A slow wire is not hidden by being used several times at once."""
    case = schedule(chunks=2, layers=1)
    found = simulate(case, lambda key: 8, simple_costs(layers=1, wire=(0.0, 1.0)))
    # Three messages of eight seconds each way; the first leaves after a third of PROJECT, or of its backward
    # after the state's gradient. The last of the forward arrives at 24.33.
    forward_done = 1 / 3 + 24 + 0.25 + 0.5 + 2
    assert found.seconds == pytest.approx(forward_done + 4 + 1 + 0.5 + 3 * 8 + 2 / 3)


def test_hosts_have_slower_links_between_them():
    case, costs = schedule(chunks=8, ranks=4), simple_costs(wire=(0.1, 1e12))
    near = simulate(case, no_bytes, costs, ranks_per_host=4)
    far = simulate(case, no_bytes, costs, ranks_per_host=1)
    assert sum(far.exposed_seconds) > sum(near.exposed_seconds)
    assert far.chain_seconds > near.chain_seconds


def test_bytes_may_grow_with_the_boundary():
    case = schedule(chunks=6, ranks=2, layers=1)
    costs = simple_costs(layers=1, wire=(0.0, 10.0))
    growing = simulate(case, lambda key: 10 * (key.boundary + 1), costs)
    assert growing.seconds > simulate(case, lambda key: 10, costs).seconds
    assert growing.seconds < simulate(case, lambda key: 60, costs).seconds


def test_kept_chunks_of_each_rank():
    case, costs = schedule(chunks=8), simple_costs()
    found = simulate(case, no_bytes, costs, kept={0: 1, 1: 4})
    assert found.busy_seconds[0] == pytest.approx(4 * 2 * (2 * FORWARD + BACKWARD) - 2 * FORWARD)
    assert found.busy_seconds[1] == pytest.approx(4 * 2 * (FORWARD + BACKWARD))
    everything = simulate(case, no_bytes, costs, kept=100)
    assert everything.busy_seconds == pytest.approx([4 * 2 * (FORWARD + BACKWARD)] * 2)


@dataclass(frozen=True)
class OneSequenceAfterTheOther(Schedule):
    """Another schedule, in one class: the next sequence begins when a rank is through with this one."""

    def tasks(self, rank: int, phase: Phase) -> list[ChunkTask]:
        tasks = [ChunkTask(phase, m, c, range(self.layers)) for m, c in self.layout.own(rank)]
        return tasks if phase is Phase.FORWARD else tasks[::-1]


def test_another_schedule_is_one_class():
    ours = schedule(chunks=8, ranks=4, sequences=2)
    other = OneSequenceAfterTheOther(ours.layout, ours.parts)
    found = [simulate(s, no_bytes, simple_costs(), kept=0) for s in (ours, other)]
    assert found[0].busy_seconds == pytest.approx(found[1].busy_seconds)
    assert found[0].seconds < found[1].seconds


def test_the_step_is_near_to_what_is_possible():
    """And never below, over a grid of the real model."""
    config = load_config("configs/ttt-linear-1.3b-1Mi.yaml")
    costs = assumed("h200", config)
    for ranks, chunk in ((1, 8192), (4, 32768), (8, 8192), (16, 8192), (64, 4096), (64, 1024)):
        case = Schedule(Layout("striped", 2**20, chunk, ranks), (PARTS,) * 24)
        found = simulate(case, lambda key: 500_000, costs)
        assert 1 - 1e-9 < found.seconds / found.possible_seconds < 1.05, (ranks, chunk)


def test_the_chain_bounds_any_number_of_ranks():
    config = load_config("configs/ttt-mlp-1.3b-128Ki.yaml")
    costs = assumed("h200", config)
    case = Schedule(Layout("striped", 2**17, 512, 128), (PARTS,) * 24)
    found = simulate(case, lambda key: 4_000_000, costs)
    assert found.chain_seconds < found.possible_seconds <= found.seconds
    assert found.chain_seconds > sum(found.busy_seconds) / 128


def test_compute_between_messages_is_one_step_so_that_a_planner_may_ask_often():
    costs = assumed("h200", load_config("configs/ttt-linear-1.3b-1Mi.yaml"))
    where = Run.FORWARD, range(24), 8192
    merged, named = (Programs((PARTS,) * 24, costs, labels=labels) for labels in (False, True))
    assert len(merged.get(*where, True, True, False).steps) == 24 * len(PARTS) * 2 + 1
    assert len(merged.get(*where, False, False, False).steps) == 1
    for messages in (True, False):
        a, b = (p.get(*where, messages, messages, False) for p in (merged, named))
        assert sum(s.seconds for s in a.steps) == pytest.approx(b.busy)
        assert len(b.steps) > len(a.steps)
