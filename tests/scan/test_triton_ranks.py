"""Sweeps with the Triton kernels, interpreted: the same losses to the last bit on any number of ranks."""

import functools
import threading

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from tests.scan.helpers import random_tokens, relative, sweep, tiny_config
from tttscale.kernels.scan import ttt_scan
from tttscale.model import ttt_layer

SIZE = 16  # tokens of the shortest mini-batch that has a kernel
LENGTH, CHUNK, CHUNKS = 74, 2 * SIZE, 3  # the last mini-batch is short


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels launched; the layers scan with Triton only.

    The interpreter keeps the running program's place in a global, and ranks are threads here: one launch
    at a time.
    """
    names, lock, launch = [], threading.Lock(), GridExecutor.__call__

    def one_at_a_time(self, *args, **kwargs):
        with lock:
            names.append(self.fn.__name__)
            return launch(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", one_at_a_time)
    monkeypatch.setattr(ttt_layer, "ttt_scan", functools.partial(ttt_scan, backend="triton"))
    return names


def one_document():
    return random_tokens(LENGTH)


def two_documents():
    """The second begins inside the second chunk, behind padding; each crosses an edge between chunks."""
    tokens = one_document()
    gap = slice(45, 48)
    tokens.starts, tokens.padded = (0, gap.stop), np.zeros(LENGTH, dtype=bool)
    tokens.padded[gap], tokens.labels[gap] = True, -100
    return tokens


@pytest.mark.parametrize(
    ("kind", "layers", "tokens", "others"),
    [  # others: layout, ranks and chunks whose graph is kept, to compare with one rank
        ("linear", 2, one_document, [("striped", 3, 0)]),
        ("linear", 2, two_documents, [("striped", 2, 1), ("contiguous", 2, 1)]),
        ("mlp", 1, one_document, [("contiguous", 2, 1)]),
        ("mlp", 1, two_documents, [("striped", 3, 1)]),
    ],
)
def test_any_number_of_ranks_gives_the_same(kind, layers, tokens, others, launches):
    """One layer needs a kept chunk: a recomputed one's last outputs are not those of its forward sweep."""
    config = tiny_config(
        kind, layers=layers, hidden_size=16, num_attention_heads=1, mini_batch_size=SIZE
    )
    run = functools.partial(sweep, config, [[tokens()]], chunk=CHUNK, dtype=torch.float32)
    alone, alone_grads = run(keep=CHUNKS)
    scanned = set(launches)
    assert scanned
    for layout, ranks, keep in others:
        launches.clear()
        losses, grads = run(kind=layout, ranks=ranks, keep=keep)
        assert set(launches) == scanned
        assert torch.equal(losses.sums, alone.sums)
        assert torch.equal(losses.sequence_sums, alone.sequence_sums)
        assert grads.keys() == alone_grads.keys()
        for name, grad in grads.items():
            assert relative(grad, alone_grads[name]) < 1e-6, name
