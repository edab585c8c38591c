"""Every shape and dtype of the Triton kernels, interpreted on the CPU, against the fp64 reference."""

import pytest
import torch

from tests.kernels.exactly import (
    LARGEST_ERROR,
    assert_relatively_close,
    everything,
    exactly,
    narrow,
)
from tests.kernels.problem import KINDS, problem
from tttscale.kernels.triton_scan.launch_table import BLOCK_TOKENS

# The gradient of one token's rate is a single, cancelling sum: 3e-6 (torch backend in fp32: 5e-6).
LARGEST_ERROR_OF_ONE_TOKEN = 5e-6

DIMS, SIZES = (16, 32, 64, 96, 128), (16, 32, 64)
DTYPES = (torch.float32, torch.bfloat16)


def length_of(kind, size, dtype):
    """One block of mini-batches, TTT-Linear two, and one that is short and ends in a short mini-batch."""
    block = max(size, BLOCK_TOKENS // 2 if dtype == torch.float32 else BLOCK_TOKENS)
    return (2 if kind == "linear" else 1) * block + 11


# TTT-MLP's wide ones take long: every two of head dim, K and dtype meet, but not all three.
NOT_RUN = {
    *((64, 32, torch.float32), (64, 64, torch.bfloat16), (96, 16, torch.bfloat16)),
    *((96, 32, torch.float32), (96, 64, torch.float32), (128, 16, torch.float32)),
    *((128, 32, torch.bfloat16), (128, 64, torch.float32)),
}
CASES = [  # inner learner, mini-batch, tokens, head dim, dtype
    *(
        (kind, size, length_of(kind, size, dtype), dim, dtype)
        for kind in KINDS
        for size in SIZES
        for dim in DIMS
        for dtype in DTYPES
        if kind == "linear" or (dim, size, dtype) not in NOT_RUN
    ),
    ("linear", 16, 1, 16, torch.float32),
    ("linear", 16, 139, 24, torch.float32),
    ("mlp", 16, 1, 16, torch.float32),
    ("mlp", 16, 139, 24, torch.float32),
    ("mlp", 16, 40, 48, torch.bfloat16),
]


@pytest.mark.parametrize(("kind", "size", "length", "dim", "dtype"), CASES)
def test_equals_the_reference(kind, size, length, dim, dtype):
    p = problem(kind, size, length, dim, batch=1)
    leaves = narrow(p, dtype)
    ours = everything(p, leaves, backend="triton")
    assert ours[0].dtype == dtype
    assert {s.dtype for s in ours[1 : len(p.state) + 1]} == {torch.float32}
    limit = LARGEST_ERROR_OF_ONE_TOKEN if length == 1 else LARGEST_ERROR[dtype]
    assert_relatively_close(ours, exactly(p, leaves), limit)
