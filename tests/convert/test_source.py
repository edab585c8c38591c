"""Tensors on their way: every value finite, before and after a change of dtype."""

import math

import pytest
import torch

from tttscale.convert.source import DTYPE_NAMES, Source, Stored, dtype_name, widest
from tttscale.errors import CheckpointError


def source(*values, dtype=torch.float32):
    tensor = torch.tensor(values, dtype=dtype)
    return Source("FILE", "", {"key": Stored("LABEL", dtype, tuple(tensor.shape), lambda: tensor)})


@pytest.mark.parametrize("dtype", DTYPE_NAMES.values())
def test_dtypes(dtype):
    found = source(1.0, -2.5, 0.1).read("key", dtype)
    assert found.dtype == dtype
    assert torch.equal(found, torch.tensor([1.0, -2.5, 0.1]).to(dtype))
    assert DTYPE_NAMES[dtype_name(dtype)] is dtype
    assert widest({dtype, torch.float64}) is torch.float64


def test_the_same_dtype_is_no_copy():
    one = source(1.0)
    assert one.read("key", torch.float32) is one.tensors["key"].read()
    assert one.parameters == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(value):
    with pytest.raises(CheckpointError, match="FILE: LABEL holds 1 values of 2"):
        source(1.0, value).read("key", torch.bfloat16)


def test_values_too_large_for_a_dtype():
    assert source(65504.0).read("key", torch.float16).isfinite().all()
    with pytest.raises(CheckpointError, match=r"LABEL holds 7e\+04, too large for float16"):
        source(1.0, -7e4).read("key", torch.float16)


def test_an_empty_tensor():
    assert source().read("key", torch.float16).shape == (0,)
