"""Sweeps over ranks: bitwise losses, equal gradients, and no deadlock under random delays."""

import random
import time

import pytest
import torch

from tests.scan.helpers import random_tokens, relative, sweep, tiny_config


def assert_same(one, other, tolerance=1e-10):
    assert torch.equal(one[0].sums, other[0].sums)
    assert torch.equal(one[0].sequence_sums, other[0].sequence_sums)
    assert torch.equal(one[0].position_counts, other[0].position_counts)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        assert relative(grad, other[1][name]) < tolerance, name


@pytest.mark.parametrize("layout", ["striped", "contiguous"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_any_number_of_ranks_gives_the_same(kind, layout):
    config = tiny_config(kind)
    groups = [[random_tokens(45, seed=m)] for m in range(2)]
    alone = sweep(config, groups, kind=layout)
    for ranks in (2, 3, 4):
        assert_same(sweep(config, groups, ranks=ranks, kind=layout, keep=ranks - 2), alone)


class Delayed:
    """Sleeps at random before every receive and send."""

    def __init__(self, transport, seed):
        self._inner, self._random = transport, random.Random(seed + transport.rank)
        self.rank, self.size = transport.rank, transport.size

    def _nap(self):
        time.sleep(self._random.random() * 0.002)

    def irecv(self, key, source, carried):
        self._nap()
        return self._inner.irecv(key, source, carried)

    def isend(self, key, target, part):
        self._nap()
        self._inner.isend(key, target, part)

    def flush(self):
        self._nap()
        self._inner.flush()


@pytest.mark.parametrize("layout", ["striped", "contiguous"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8])
def test_random_delays_never_deadlock(ranks, layout):
    """Chunks are no multiple of the ranks (7), and fewer than the ranks (3)."""
    config = tiny_config(layers=2)
    for length in (27, 12):
        for sequences in (1, 3):
            groups = [[random_tokens(length, seed=m)] for m in range(sequences)]
            alone = sweep(config, groups, chunk=4, kind=layout)
            delayed = sweep(
                config,
                groups,
                chunk=4,
                ranks=ranks,
                kind=layout,
                wrap=lambda t, seed=length + sequences: Delayed(t, seed),
            )
            assert_same(delayed, alone)


def test_a_failing_rank_releases_the_others_and_is_named():
    class Failing(Delayed):
        def isend(self, key, target, part):
            raise ZeroDivisionError("rank 1 breaks")

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="rank 1 breaks"):
        sweep(
            tiny_config(),
            [[random_tokens(40)]],
            ranks=3,
            wrap=lambda t: Failing(t, 0) if t.rank == 1 else t,
        )
    assert time.monotonic() - began < 20
