"""Ranks as threads that also add up tensors, and rows of tokens."""

import threading

import numpy as np
import torch

from tests.scan.helpers import tiny_config, tiny_model
from tttscale.comm.threads import ThreadWorld
from tttscale.evaluate.passes import Passes, Split


class Sums:
    """Adds up a tensor over threads, each of which calls it once at a time."""

    def __init__(self, ranks):
        self._slots, self._barrier = [None] * ranks, threading.Barrier(ranks, timeout=60)

    def of(self, rank):
        def summed(tensor):
            self._slots[rank] = tensor.clone()
            self._barrier.wait()
            total = sum(self._slots[1:], self._slots[0])
            self._barrier.wait()
            return tensor.copy_(total)

        return summed


def on_ranks(work, ranks, split, config=None, *, dtype=torch.float64, batch=1):
    """Call work(passes, summed) on thread ranks; results in rank order."""
    sums = Sums(ranks)

    def rank(transport):
        model = tiny_model(config or tiny_config(), dtype)
        return work(Passes(model, transport, split, batch), sums.of(transport.rank))

    return ThreadWorld(ranks).run(rank)


def split(length, chunk=8, kind="striped"):
    return Split(length, chunk, kind)


class Rows:
    """A sequence in memory."""

    def __init__(self, length, seed=0, vocab=23):
        stream = np.random.default_rng(seed).integers(0, vocab, length + 1)
        self.ids, self.labels = stream[:-1].copy(), stream[1:].copy()

    def chunk(self, begin, end):
        from tttscale.data.windows.window import TokenChunk

        return TokenChunk(self.ids[begin:end], self.labels[begin:end])
