"""A part of a carry as bytes, and back."""

import pytest
import torch

from tttscale.model.ports import Carried
from tttscale.scan.carry_store import carried_bytes, packed, views


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_part_keeps_its_bits_as_bytes_and_back(dtype):
    one, two, three = (torch.randn(shape).to(dtype) for shape in ((2, 3), (4,), ()))
    carried = Carried(((2, 3), (4,), ()), dtype)
    flat = torch.cat(packed((one.T.contiguous().T, two, three)))
    assert len(flat) == carried_bytes(carried)
    for sent, found in zip((one, two, three), views(flat, carried), strict=True):
        assert found.dtype == dtype
        assert torch.equal(sent, found)
        assert (found.data_ptr() - flat.data_ptr()) % 16 == 0


def test_views_of_a_buffer_share_its_memory():
    carried = Carried(((2, 2),), torch.float32)
    flat = torch.zeros(carried_bytes(carried), dtype=torch.uint8)
    views(flat, carried)[0].fill_(1)
    assert flat.any()
