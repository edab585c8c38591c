import pytest
from torch import Generator, Tensor

from tests.plan.helpers import PARTS, simple_costs
from tttscale.kernels.learners import LEARNERS
from tttscale.model import Mixer
from tttscale.model.architecture import TTTConfig
from tttscale.model.ports import Carried
from tttscale.model.sequence_layer import recv_state, send_state
from tttscale.plan import stand_in, virtual_time
from tttscale.plan.rehearse import rehearse
from tttscale.plan.simulate import simulate
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Schedule
from tttscale.scan.timeline import Activity, Run

MAMBA = dict(share_qk=True, use_gate=True, pre_conv=True)
GRID = [  # layout, chunks, a short last chunk, ranks, sequences, kept chunks, backbone
    ("striped", 3, False, 1, 1, 1, MAMBA),
    ("striped", 4, False, 2, 1, 1, MAMBA),
    ("striped", 7, True, 3, 1, 0, MAMBA),
    ("striped", 8, False, 4, 2, 3, {}),
    ("striped", 9, False, 3, 1, 1 + 1 / 3, MAMBA),  # and one layer of one more chunk
    ("contiguous", 6, False, 3, 1, 1.5, {}),
    ("striped", 3, True, 4, 1, 1, MAMBA),
    ("contiguous", 4, False, 4, 1, 0, MAMBA),
    ("contiguous", 6, True, 2, 2, 1, MAMBA),
]


def shape(layers=3, **changes):
    return TTTConfig(num_hidden_layers=layers, mini_batch_size=16, **changes)


def case(kind, chunks, short, ranks, sequences, parts=PARTS, layers=3):
    layout = Layout(kind, chunks * 64 - 20 * short, 64, ranks, sequences)
    return Schedule(layout, (parts,) * layers)


def costs(**changes):
    changes = {"layers": 3, "wire": (0.05, 100.0), "send": 0.01, "per_token": 0.02} | changes
    return simple_costs(embed=0.1, head=0.3, **changes)


def same(found, simulated):
    assert found.seconds == pytest.approx(simulated.seconds)
    for name in ("busy_seconds", "ramp_seconds", "starved_seconds", "exposed_seconds"):
        assert getattr(found, name) == pytest.approx(getattr(simulated, name), abs=1e-9), name


@pytest.mark.parametrize(
    ("kind", "chunks", "short", "ranks", "sequences", "kept", "backbone"), GRID
)
def test_the_real_code_takes_what_the_simulator_says(
    kind, chunks, short, ranks, sequences, kept, backbone
):
    model, parts = shape(**backbone), PARTS if backbone else ("state",)
    schedule = case(kind, chunks, short, ranks, sequences, parts)
    sizes = {"kept": kept, "ranks_per_host": 2}
    found = rehearse(model, schedule, lambda key: 5, costs(), **sizes)
    simulated = simulate(schedule, lambda key: 5, costs(), trace=True, **sizes)
    same(found, simulated)
    assert found.trace.origin == "rehearsed"
    assert found.trace.facts == simulated.trace.facts


def compute(trace):
    """What every rank does in order, without the pieces of PROJECT being counted."""
    order = []
    for span in trace.spans:
        here = (span.activity, span.run, span.sequence, span.chunk, span.layer, span.part)
        if span.activity not in ("flush", "idle") and (not order or order[-1] != here):
            order.append(here)
    return order


def test_both_traces_have_the_same_activities():
    schedule = case("striped", 5, False, 2, 1)
    found = rehearse(shape(**MAMBA), schedule, lambda key: 5, costs())
    simulated = simulate(schedule, lambda key: 5, costs(), trace=True)
    for rank, (ours, theirs) in enumerate(
        zip(found.trace.ranks, simulated.trace.ranks, strict=True)
    ):
        assert compute(ours) == compute(theirs), rank
        assert ours.spans[-1].end == pytest.approx(theirs.spans[-1].end)


def test_both_learners_and_costs_of_being_alone():
    cases = [
        ("striped", 4, False, 2, 1),
        ("contiguous", 6, False, 2, 1),
        ("striped", 3, False, 1, 1),
    ]
    model = shape(pattern=("ttt-linear", "ttt-mlp"), **MAMBA)
    known = costs()
    lines = dict(known.layers["layer"])
    lines["alone.forward.advance"] = lines["alone.backward.advance"] = lines["forward.finish"]
    known = type(known)(**{**vars(known), "layers": {"layer": lines}})
    for schedule in (case(*words) for words in cases):
        found = rehearse(model, schedule, lambda key: 5, known)
        same(found, simulate(schedule, lambda key: 5, known))


class Theirs(Mixer):
    """A layer of someone's own with two parts."""

    def carry(self, batch, tokens):
        return {"tail": Carried(((batch, 3),)), "sum": Carried(((batch, 1),))}

    def reset(self, generator: Generator, init: str) -> None:
        pass

    def forward(self, h: Tensor, chunk, ports) -> Tensor:
        for name in ("tail", "sum"):
            (h,), part = recv_state(ports[name], h)
            h = send_state(ports[name], h, part)
        return h


def test_layers_of_someones_own_exchange_their_parts():
    model = shape(layers=2, pattern=("ttt-linear", f"{__name__}:Theirs"), pre_conv=True)
    parts = ("pre_conv", "state"), ("pre_conv", "tail", "sum")
    schedule = Schedule(Layout("striped", 64 * 4, 64, 2), parts)
    known = costs(layers=2)
    found = rehearse(model, schedule, lambda key: 5, known)
    same(found, simulate(schedule, lambda key: 5, known))


def test_a_late_send_is_noticed(monkeypatch):
    """If the real code read out before it sends the state, other ranks would wait longer."""

    def advance(self, state):
        self._timeline.advanced()
        self._timeline.read_out()
        return [[]], state

    schedule = case("striped", 4, False, 4, 1)
    before = rehearse(shape(**MAMBA), schedule, lambda key: 5, costs())
    monkeypatch.setattr(stand_in.TimedScan, "advance", advance)
    after = rehearse(shape(**MAMBA), schedule, lambda key: 5, costs())
    assert after.seconds > before.seconds + 1


def test_the_learners_are_as_before():
    before = dict(LEARNERS)
    with stand_in.timed_learners():
        assert len(LEARNERS) == 2 * len(before)
    assert before == LEARNERS


def test_pieces_are_charged_when_something_comes_after_them():
    schedule = case("striped", 3, False, 3, 1)
    timeline = virtual_time.VirtualTimeline(
        schedule.layout, schedule.parts, frozenset(range(3)), simple_costs(layers=3)
    )
    task = schedule.tasks(1, "forward")[0]
    timeline.begin(Activity.PROJECT, Run.FORWARD, task, 0)
    assert timeline.clock == 0
    timeline.begin(Activity.WAIT, Run.FORWARD, task, 0, "pre_conv")
    assert timeline.clock == pytest.approx(1 / 3)
    timeline.begin(Activity.WAIT, Run.FORWARD, task, 0, "state")
    assert timeline.clock == pytest.approx(1)
    timeline.begin(Activity.ADVANCE, Run.FORWARD, task, 0)
    timeline.advanced()
    assert timeline.clock == pytest.approx(1.25)
    timeline.begin(Activity.FINISH, Run.FORWARD, task, 0)
    assert timeline.clock == pytest.approx(1.75)
    timeline.begin(Activity.PROJECT, Run.FORWARD, task, 1)
    assert timeline.clock == pytest.approx(3.75)
