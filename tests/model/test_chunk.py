"""What a layer knows of its chunk: where documents start, and what they begin with."""

import torch

from tttscale.model.chunk import WHOLE, Chunk


def test_tokens_are_cut_wherever_a_document_starts_in_any_row():
    assert WHOLE.cuts(20) == [(0, 20)]
    assert Chunk(((), ())).cuts(20) == [(0, 20)]
    assert Chunk(((8,), (4, 16))).cuts(20) == [(0, 4), (4, 8), (8, 16), (16, 20)]
    assert Chunk(((0,), (0, 8))).cuts(20) == [(0, 8), (8, 20)]


def test_rows_in_which_a_document_starts_begin_anew():
    old, new = torch.ones(2, 3), torch.zeros(2, 3)
    chunk = Chunk(((8,), (8, 16)))
    assert chunk.renew(4, old, new) is old
    assert chunk.renew(8, old, new) is new
    assert chunk.renew(16, old, new).tolist() == [[1.0] * 3, [0.0] * 3]


def test_at_its_own_beginning_a_chunk_still_owes_the_one_before_a_gradient():
    old, new = torch.ones(1, 3, requires_grad=True), torch.zeros(1, 3)
    renewed = Chunk(((0,),)).renew(0, old, new)
    assert torch.equal(renewed, new)
    renewed.sum().backward()
    assert old.grad is not None
    assert not old.grad.any()


def test_a_packing_is_made_once_for_all_layers_of_a_chunk():
    x, chunk = torch.zeros(1, 32, 4), Chunk(((0, 16),))
    first = chunk.packing(x, 16, 1024)
    assert chunk.packing(x + 1, 16, 1024) is first
    assert chunk.packing(x, 8, 1024) is not first
    assert chunk.packing(x, 16, 2048) is not first
