"""What all ranks have to agree on."""

import json

import pytest
import torch

from tests.ranks import run_ranks, values
from tttscale.comm import agreement
from tttscale.comm import mesh as meshes
from tttscale.errors import LaunchError


def disagreeing(ranks, values):
    try:
        meshes.start(ranks, 2, torch.device("cpu"), agreed=values[ranks.rank])
    except LaunchError as error:
        return str(error)
    return "no error"


def test_ranks_with_other_values_end_on_every_rank():
    one = {"run.seed": "0", "train.lr": "0.1"}
    same = values(run_ranks(disagreeing, 2, [one, dict(one)]))
    assert same == ["no error", "no error"]
    other = values(
        run_ranks(disagreeing, 2, [one, {"run.seed": "17", "train.lr": "0.1", "x": "1"}])
    )
    assert other[0] == other[1]
    assert (
        "rank 1 runs with run.seed = 17, x = 1, rank 0 with run.seed = 0, x = nothing" in other[0]
    )


def compared(monkeypatch, *all_ranks):
    texts = [json.dumps(own) for own in all_ranks]
    monkeypatch.setattr(agreement, "texts_of_all_ranks", lambda text: texts)
    agreement.check_agreement(all_ranks[0])


def test_the_first_rank_that_differs_is_named_with_a_few_of_its_keys(monkeypatch):
    first = {f"key.{i}": "0" for i in range(5)}
    compared(monkeypatch, first, dict(first), dict(first))
    other = dict.fromkeys(first, "1")
    with pytest.raises(LaunchError) as caught:
        compared(monkeypatch, first, first, other, other)
    said = str(caught.value)
    assert said.startswith(
        "rank 2 runs with key.0 = 1, key.1 = 1, key.2 = 1, rank 0 with key.0 = 0"
    )
    assert "(5 differences in all)" in said
    assert said.endswith("Start all ranks with the same file, overrides and version.")


@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        ({"a": "1"}, {}, "rank 1 runs with a = nothing, rank 0 with a = 1. Start"),
        ({}, {"a": "1"}, "rank 1 runs with a = 1, rank 0 with a = nothing. Start"),
    ],
)
def test_a_key_that_one_rank_has_not(monkeypatch, first, other, said):
    with pytest.raises(LaunchError, match=said):
        compared(monkeypatch, first, other)
