"""A chunk's ports: where parts come from and go to in a first run, a recomputation and a backward."""

from types import SimpleNamespace

import pytest
import torch

from tests.scan.declared import Notes, layout
from tttscale.errors import MixerError
from tttscale.scan.carry_store import CarryStore
from tttscale.scan.layout import Layout
from tttscale.scan.ports import CarryRouter, ChunkPorts, LayerPorts
from tttscale.scan.schedule import CarryKey, ChunkTask, Phase, Schedule
from tttscale.scan.transport import RecvQueue

CHUNKS = 4
ORDER = ("tail", "state")


class Wire:
    """Rank 0 of two; what is received is the key's boundary plus a half, in every element."""

    rank, size = 0, 2

    def __init__(self):
        self.sent = []

    def irecv(self, key, source, carried):
        value = key.boundary + 0.5
        part = tuple(torch.full(shape, value, dtype=carried.dtype) for shape in carried.shapes)
        return SimpleNamespace(wait=lambda: part)

    def isend(self, key, target, part):
        self.sent.append((key, target, part))

    def flush(self):
        """Nothing waits."""


@pytest.fixture
def router():
    carry = layout(layers=1)
    schedule = Schedule(Layout("striped", 16, 4, 2), carry.parts)
    boundaries = [(0, b) for b in range(CHUNKS - 1)]
    store = CarryStore(carry, boundaries, torch.device("cpu"))
    made = CarryRouter(schedule, carry, Wire(), store, Notes())
    for phase in Phase:
        made.queues[phase] = RecvQueue(made.transport, schedule.incoming(0, phase), carry, 2)
    return made


def ports(router, chunk, phase=Phase.FORWARD, **kind):
    task = ChunkTask(phase, 0, chunk, range(1))
    return LayerPorts(ChunkPorts(router, task, **{"replay": False, **kind}), 0)


def part_of(router, part, boundary, value=1.0):
    carried = router.layout.at(0, boundary)[part]
    return tuple(torch.full(shape, value, dtype=carried.dtype) for shape in carried.shapes)


def run(router, layer, chunk):
    """All parts of a forward; what was received."""
    received = []
    for part in ORDER:
        received.append(layer[part].recv_state())
        layer[part].send_state(part_of(router, part, chunk))
    return received


def test_the_first_chunk_receives_nothing_and_sends_to_the_owner_of_the_next(router):
    layer = ports(router, 0)
    assert layer["tail"].peer_waits_for_state
    assert run(router, layer, 0) == [None, None]
    sent = [(key, target) for key, target, _ in router.transport.sent]
    assert sent == [(CarryKey(Phase.FORWARD, 0, 0, 0, part), 1) for part in ORDER]
    assert not router.local


def test_a_first_run_stores_its_states_and_a_recomputation_takes_them_and_sends_none(router):
    (tail,), (state, _) = run(router, ports(router, 2), 2)
    assert (tail == 1.5).all()
    assert state.shape == (2, 8)
    router.transport.sent.clear()
    again = ports(router, 2, replay=True)
    assert not again["state"].peer_waits_for_state
    (stored_tail,), (stored_state, _) = run(router, again, 2)
    assert torch.equal(stored_tail, tail)
    assert torch.equal(stored_state, state)
    assert router.transport.sent == []


def test_a_run_that_keeps_its_graph_stores_nothing(router):
    before = router.store.get(CarryKey(Phase.FORWARD, 0, 1, 0, "state"))
    for tensor in before:
        tensor.fill_(-1)
    run(router, ports(router, 2, keep=True), 2)
    assert all((tensor == -1).all() for tensor in before)


def test_a_chunk_of_the_same_rank_is_handed_its_state_here():
    carry = layout(layers=1)
    schedule = Schedule(Layout("contiguous", 16, 4, 2), carry.parts)
    store = CarryStore(carry, [(0, 0)], torch.device("cpu"))
    router = CarryRouter(schedule, carry, Wire(), store, Notes())
    first = ports(router, 0)
    assert not first["tail"].peer_waits_for_state
    run(router, first, 0)
    assert router.local
    received = run(router, ports(router, 1), 1)
    assert all(part is not None for part in received)
    assert [target for _, target, _ in router.transport.sent] == [1, 1]  # those of chunk 1 alone
    assert not router.local


def test_gradients_come_from_the_right_and_go_to_the_left(router):
    layer = ports(router, 2, Phase.BACKWARD)
    for part in reversed(ORDER):
        received = layer[part].recv_grad()
        assert received is not None
        assert (received[0] == 2.5).all()
        layer[part].send_grad(part_of(router, part, 1))
    sent = [(key.boundary, key.part, target) for key, target, _ in router.transport.sent]
    assert sent == [(1, "state", 1), (1, "tail", 1)]
    assert {key.phase for key, *_ in router.transport.sent} == {Phase.BACKWARD}


def test_a_gradient_has_the_shape_of_the_state_on_its_boundary(router):
    """That of chunk 2's own output has four tokens more."""
    layer = ports(router, 2, Phase.BACKWARD)
    with pytest.raises(MixerError, match=r"send_grad of part 'state' with \['\(2, 12\)"):
        layer["state"].send_grad(part_of(router, "state", 2))


def test_what_is_sent_takes_no_graph_along(router):
    layer = ports(router, 0)
    part = part_of(router, "tail", 0)[0].requires_grad_()
    layer["tail"].send_state((part * 2,))
    ((_, _, (sent,)),) = router.transport.sent
    assert not sent.requires_grad


def test_an_undeclared_part_has_no_port(router):
    with pytest.raises(MixerError, match="forward uses part 'memory'"):
        ports(router, 0)["memory"]
