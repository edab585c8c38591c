"""Chunks of tokens as tensors, one ahead."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tests.scan.helpers import Tokens, random_tokens
from tttscale.scan.reader import Reader, assemble

CPU = torch.device("cpu")


def test_rows_stand_side_by_side():
    rows = [random_tokens(6, seed=s) for s in range(2)]
    rows[0].starts, rows[1].starts = (0, 4), [2]
    batch = assemble(rows, 12, CPU)
    assert batch.ids.dtype == batch.labels.dtype == torch.int64
    for row, tokens in enumerate(rows):
        assert batch.ids[row].tolist() == tokens.ids.tolist()
        assert batch.labels[row].tolist() == tokens.labels.tolist()
    assert batch.chunk.starts == ((0, 4), (2,))
    assert (batch.chunk.begin, batch.chunk.padded) == (12, None)


def test_padding_of_one_row_leaves_the_others_without():
    plain, holed = random_tokens(3), random_tokens(3, seed=1)
    holed.padded = np.array([False, True, True])
    padded = assemble([plain, holed], 0, CPU).chunk.padded
    assert padded is not None
    assert padded.tolist() == [[False] * 3, [False, True, True]]


@dataclass
class Slow:
    """A sequence that is read when it is let."""

    name: str
    log: list
    gate: threading.Event

    def chunk(self, begin, end):
        assert self.gate.wait(10)
        self.log.append((self.name, begin, end))
        if end == 99:
            raise OSError("the disk is gone")
        return Tokens(np.arange(begin, end), np.arange(begin, end))


@pytest.fixture
def sequences():
    gate = threading.Event()
    gate.set()
    log = []
    return [[Slow(f"{m}{b}", log, gate) for b in "ab"] for m in range(2)], log, gate


def settled(log, expected):
    """Whether the reading thread gets so far, and no further."""
    waiting = threading.Event()
    for _ in range(200):
        if len(log) >= len(expected):
            break
        waiting.wait(0.01)
    waiting.wait(0.02)
    return log == expected


def test_one_chunk_is_read_ahead_and_no_more(sequences):
    groups, log, _ = sequences
    ranges = [(0, 0, 4), (1, 0, 4), (0, 4, 6)]
    expected = [(f"{m}{b}", begin, end) for m, begin, end in ranges for b in "ab"]
    batches = Reader(CPU).read(groups, iter(ranges))
    assert settled(log, expected[:2])  # before anybody asks for it
    assert next(batches).ids.tolist() == [[0, 1, 2, 3]] * 2
    assert settled(log, expected[:4])
    assert [batch.chunk.begin for batch in batches] == [0, 4]
    assert log == expected


def test_every_read_is_noted_with_its_chunk(sequences):
    groups, *_ = sequences
    noted = []
    reader = Reader(CPU, lambda *read: noted.append(read), chunk_tokens=4)
    list(reader.read(groups, [(0, 0, 4), (1, 8, 10)]))
    assert [place for _, _, *place in noted] == [[0, 0], [1, 2]]
    times = [time for began, ended, *_ in noted for time in (began, ended)]
    assert times == sorted(times)


def test_an_error_of_a_store_comes_where_the_chunk_is_used(sequences):
    groups, *_ = sequences
    batches = Reader(CPU).read(groups, [(0, 0, 4), (0, 98, 99)])
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
