"""Pieces: each position in one, whatever the chunks."""

from itertools import pairwise

import pytest
import torch

from tttscale.evaluate.pieces import Pieces, flat, load, total


@pytest.mark.parametrize(("length", "chunk"), [(45, 8), (200, 64), (1000, 48), (64, 64), (7, 8)])
def test_every_position_is_in_one_piece_of_its_chunk(length, chunk):
    pieces = Pieces(length, chunk)
    table, begins = pieces.table(), []
    for begin in range(0, length, chunk):
        end = min(begin + chunk, length)
        for number, at in pieces.inside(begin, end):
            assert 0 <= at.start < at.stop <= end - begin
            table[number] += at.stop - at.start
            begins.append(begin + at.start)
    assert begins == sorted(set(begins))
    assert table.min() > 0
    widths = [b - a for a, b in pairwise(pieces.edges)]
    assert pieces.buckets(table).tolist() == widths
    assert total(pieces.buckets(table)) == length


def test_buckets_do_not_depend_on_the_chunks_where_sums_are_exact():
    values = torch.arange(300.0, dtype=torch.float64)
    found = []
    for chunk in (300, 64, 20):
        pieces = Pieces(300, chunk)
        table = pieces.table()
        for begin in range(0, 300, chunk):
            part = values[begin : begin + chunk]
            for number, at in pieces.inside(begin, begin + len(part)):
                table[number] = part[at].sum()
        found.append(pieces.buckets(table))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_tables_travel_as_one_vector():
    pieces = Pieces(100, 16)
    tables = [pieces.table(2).normal_(), pieces.table().normal_()]
    copies = [torch.zeros_like(t) for t in tables]
    load(copies, flat(tables))
    assert all(map(torch.equal, copies, tables))
