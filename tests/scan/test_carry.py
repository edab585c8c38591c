"""What all layers hand over every boundary, asked of them."""

import pytest
import torch

from tests.scan.declared import Declaring, layout
from tttscale.errors import MixerError
from tttscale.model.ports import Carried
from tttscale.scan.carry import CarryLayout
from tttscale.scan.carry_store import boundary_bytes
from tttscale.scan.schedule import CarryKey, Phase


def test_shapes_are_those_after_all_tokens_before_the_boundary():
    carry = layout(chunk_tokens=4)
    assert carry.parts == (("tail", "state"),) * 2
    assert carry.names == ("declaring",) * 2
    assert carry.at(1, 0)["state"].shapes == ((2, 4), (2, 1))
    assert carry.at(1, 2)["state"].shapes == ((2, 12), (2, 1))
    grad = CarryKey(Phase.BACKWARD, 0, 2, 1, "state")
    assert carry.of(grad) == carry.at(1, 2)["state"]


@pytest.mark.parametrize(
    ("model", "state"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_states_are_wide_unless_their_layer_says_otherwise(model, state):
    found = layout(dtype=model).at(0, 0)
    assert (found["tail"].dtype, found["state"].dtype) == (torch.bfloat16, state)


def test_bytes_of_a_boundary_are_those_of_all_its_parts():
    # Each tensor begins at a multiple of 16 bytes: 12 -> 16 for the tail, 32 and 8 -> 16 for the state.
    assert boundary_bytes(layout(layers=3), 0) == 3 * (16 + 32 + 16)


def test_every_layer_is_asked_once_for_each_boundary():
    asked = []

    class Counting(Declaring):
        def carry(self, batch, tokens):
            asked.append(tokens)
            return super().carry(batch, tokens)

    carry = CarryLayout([Counting()], 1, 8, torch.float32)
    for boundary in (1, 1, 0, 2):
        carry.at(0, boundary)
    assert asked == [8, 16, 24]


def test_names_may_not_depend_on_the_tokens_seen():
    class Moody(Declaring):
        def carry(self, batch, tokens):
            return {"a" if tokens < 10 else "b": Carried(((batch,),))}

    carry = CarryLayout([Moody()], 1, 8, torch.float32)
    assert carry.at(0, 0).keys() == {"a"}
    with pytest.raises(MixerError, match=r"layer 0 .*\['b'\] after chunk 1 and \['a'\] after chu"):
        carry.at(0, 1)
