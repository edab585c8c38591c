"""What ranks tell each other besides carries."""

import torch

from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes


def say(ranks, texts):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    return mesh.gather_texts(texts[ranks.rank])


def test_texts_of_any_length_and_paths_that_are_no_utf8():
    texts = ["", "runs/caf\udce9", "tokens \N{SNOWMAN}" * 1000]
    assert values(run_ranks(say, 3, texts)) == [texts] * 3
    assert run_ranks(say, 1, texts) == [texts[:1]]


def tell(ranks, source):
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    tensors = [torch.full((2, 3), float(ranks.rank)), torch.tensor([ranks.rank])]
    mesh.broadcast(tensors, source)
    return [t.tolist() for t in tensors]


def test_all_get_the_values_of_one():
    wanted = [[[1.0] * 3] * 2, [1]]
    assert values(run_ranks(tell, 3, 1)) == [wanted] * 3
    assert run_ranks(tell, 1, 0) == [[[[0.0] * 3] * 2, [0]]]
