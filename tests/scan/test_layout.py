"""Which rank owns which chunk."""

import itertools

import pytest

from tttscale.scan.layout import Layout

SHAPES = list(itertools.product(["striped", "contiguous"], [7, 8, 31], [1, 2, 3, 7], [1, 2, 5]))


@pytest.mark.parametrize(("kind", "chunks", "ranks", "sequences"), SHAPES)
def test_every_token_of_every_sequence_has_one_owner(kind, chunks, ranks, sequences):
    layout = Layout(kind, 8 * chunks - 3, 8, ranks, sequences)
    assert layout.chunks == chunks
    spans = [layout.bounds(c) for c in range(chunks)]
    assert [b for b, _ in spans] == [0, *(e for _, e in spans[:-1])]
    assert spans[-1] == (8 * chunks - 8, 8 * chunks - 3)
    owned = [pair for rank in range(ranks) for pair in layout.own(rank)]
    assert sorted(owned) == [(m, c) for m in range(sequences) for c in range(chunks)]
    for m in range(sequences):
        counts = [sum(layout.owner(m, c) == r for c in range(chunks)) for r in range(ranks)]
        assert max(counts) - min(counts) <= 1


def test_wavefronts_of_striped_sequences_start_at_different_ranks():
    layout = Layout("striped", 64, 8, ranks=4, sequences=2)
    assert [layout.owner(m, 0) for m in range(2)] == [0, 2]
    assert [layout.owner(0, c) for c in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_contiguous_neighbours_are_on_one_rank_but_at_its_ends():
    layout = Layout("contiguous", 64, 8, ranks=3)
    assert [layout.owner(0, c) for c in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
def test_a_sequence_ends_at_its_ends(kind):
    layout = Layout(kind, 24, 8, ranks=2)
    assert layout.neighbour(0, 0, -1) is None
    assert layout.neighbour(0, 2, +1) is None
    assert layout.neighbour(0, 1, -1) == layout.owner(0, 0)
    assert layout.neighbour(0, 1, +1) == layout.owner(0, 2)
