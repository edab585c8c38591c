"""What comes out of a layer's `carry` is checked in its form before anything relies on it."""

import pytest
import torch

from tttscale.errors import MixerError
from tttscale.model.ports import Carried
from tttscale.scan.declarations import declared


class Layer:
    name = "mine"

    def __init__(self, answer):
        self.answer = answer

    def carry(self, batch, tokens):
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"part": self.answer}


def test_parts_are_handed_on_as_the_layer_gave_them():
    whole = Carried(((2, 8, 64), (2, 0), ()), torch.bfloat16)
    assert declared(Layer(whole), 3, batch=2, tokens=16) == {"part": whole}
    named = Carried(((2, 8, 64), (2, 8)), names=("A", "b"), has_heads=True)
    assert declared(Layer(named), 3, batch=2, tokens=16) == {"part": named}


@pytest.mark.parametrize(
    "wrong",
    [
        ((2, 8),),  # no Carried
        Carried([(2, 8)]),
        Carried((2, 8)),
        Carried(([2, 8],)),
        Carried(((2, -1),)),
        Carried(((2, 8.0),)),
        Carried(((2, True),)),
        Carried(((2, 8),), "float32"),
        Carried(((2, 8),), names=("A", "b")),
        Carried(((2, 8),), names=["A"]),
        Carried(((2, 8),), names="A"),
        Carried(((2, 8),), names=(1,)),
        Carried(((2, 8), (2,)), has_heads=True),
        Carried(((2, 8),), has_heads=1),
    ],
    ids=repr,
)
def test_another_form_is_refused_with_an_example_of_the_right_one(wrong):
    with pytest.raises(MixerError) as caught:
        declared(Layer(wrong), 3, batch=2, tokens=16)
    said = str(caught.value)
    assert said.startswith(f"layer 3 (mine): carry(2, 16) declares 'part' as {wrong!r}; expected")
    assert "Carried(((2, 8, 64),)): a tuple of shapes, a torch.dtype or None" in said


def test_what_carry_raises_is_shown_with_its_line():
    with pytest.raises(MixerError, match=r"carry\(1, 4\) failed: KeyError: 'x' \(.*, line \d+\)"):
        declared(Layer(KeyError("x")), 0, batch=1, tokens=4)
