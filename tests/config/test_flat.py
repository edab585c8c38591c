"""A configuration as a flat list of keys."""

import json

from tttscale.config.flat import flat_keys


def test_keys_are_written_as_on_the_command_line():
    tree = {
        "run": {"seed": 0, "name": "a"},
        "data": {"blend": [{"store": "x", "weight": 2.0}, {"store": "y"}], "skip_steps": [3, "5-7"]},
        "train": {"betas": [0.9, 0.95], "decay_steps": None},
    }  # fmt: skip
    assert list(flat_keys(tree)) == [
        ("run.seed", "0"),
        ("run.name", '"a"'),
        ("data.blend[0].store", '"x"'),
        ("data.blend[0].weight", "2.0"),
        ("data.blend[1].store", '"y"'),
        ("data.skip_steps", '[3, "5-7"]'),
        ("train.betas", "[0.9, 0.95]"),
        ("train.decay_steps", "null"),
    ]


def test_no_two_keys_share_a_name_and_no_value_is_lost():
    tree = {"a": [], "b": [[1, 2]], "c": {"d": {}}, "e": [{"f": [{"g": 1}]}]}
    found = dict(flat_keys(tree))
    assert found == {"a": "[]", "b": "[[1, 2]]", "e[0].f[0].g": "1"}
    assert all(json.loads(value) is not None for value in found.values())
