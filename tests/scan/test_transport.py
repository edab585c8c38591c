"""Receives are started ahead of their use, in the order that the schedule knows."""

from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from tests.scan.declared import layout
from tttscale.scan.schedule import CarryKey, Phase
from tttscale.scan.transport import RecvQueue, SingleRank

KEYS = [CarryKey(Phase.FORWARD, 0, b, 0, part) for b in range(3) for part in ("tail", "state")]


class Recording:
    """Answers with numbers, in the order of asking."""

    def __init__(self):
        self.asked, self.waited = [], []
        self._numbers = count()

    def irecv(self, key, source, carried):
        self.asked.append((key, source, carried.shapes))
        return SimpleNamespace(wait=partial(self._wait, key, next(self._numbers)))

    def _wait(self, key, number):
        self.waited.append(key)
        return (torch.tensor(number),)


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_so_many_receives_are_under_way_and_each_use_starts_the_next(ahead):
    transport = Recording()
    queue = RecvQueue(transport, iter((5, key) for key in KEYS), layout(), ahead)
    assert [key for key, *_ in transport.asked] == KEYS[:ahead]
    for number, key in enumerate(KEYS):
        (found,) = queue.recv(key)
        assert found == number
        assert len(transport.asked) == min(number + 1 + ahead, len(KEYS))
    assert transport.waited == KEYS
    carry = layout()
    assert transport.asked == [(key, 5, carry.of(key).shapes) for key in KEYS]


def test_the_next_receive_is_started_before_this_one_is_waited_for():
    class Lost(Recording):
        def irecv(self, key, source, carried):
            super().irecv(key, source, carried)
            return SimpleNamespace(wait=self._fail)

        def _fail(self):
            raise ConnectionError

    transport = Lost()
    queue = RecvQueue(transport, iter((0, key) for key in KEYS), layout(), 1)
    with pytest.raises(ConnectionError):
        queue.recv(KEYS[0])
    assert [key for key, *_ in transport.asked] == KEYS[:2]


def test_a_use_out_of_order_is_a_fault_of_ours():
    queue = RecvQueue(Recording(), iter((0, key) for key in KEYS), layout(), 2)
    with pytest.raises(AssertionError, match=r"out of order: wants the state .*receives the tail"):
        queue.recv(KEYS[1])


def test_a_single_rank_has_nobody_to_talk_to():
    alone = SingleRank()
    assert (alone.rank, alone.size, alone.flush()) == (0, 1, None)
    with pytest.raises(AssertionError, match="a single rank waits for the tail"):
        alone.irecv(KEYS[0], 0, layout().of(KEYS[0]))
    with pytest.raises(AssertionError, match="a single rank sends the tail"):
        alone.isend(KEYS[0], 0, (torch.zeros(1),))
