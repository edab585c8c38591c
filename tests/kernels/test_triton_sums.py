"""The sums of several tensors in one reduction, which interpreted kernels otherwise take one by one."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tttscale.kernels.triton_scan import ops
from tttscale.kernels.triton_scan.ops import _add4, row_sums4

ROWS, COLUMNS = 4, 16


@triton.jit
def sums_kernel(
    x_ptr, sums_ptr, WHOLE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    rows, cols = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    x, tile = x_ptr + rows * COLUMNS + cols, ROWS * COLUMNS
    a, b = tl.load(x), tl.load(x + tile)
    c, d = tl.load(x + 2 * tile), tl.load(x + 3 * tile)
    if WHOLE:
        a, b, c, d = row_sums4(a, b, c, d)  # type: ignore
    else:
        a, b, c, d = tl.reduce((a, b, c, d), 1, _add4, keep_dims=True)
    sums = sums_ptr + rows
    tl.store(sums, a)
    tl.store(sums + ROWS, b)
    tl.store(sums + 2 * ROWS, c)
    tl.store(sums + 3 * ROWS, d)


def check(whole):
    """Whole numbers, whose sums are exact in any order; all sixteen sums differ."""
    x = np.random.default_rng(0).integers(-1000, 1000, (4, ROWS, COLUMNS)).astype(np.float32)
    exact, sums = x.sum(2), torch.full((4, ROWS), float("nan"))
    assert len(np.unique(exact)) == exact.size
    sums_kernel[(1,)](torch.from_numpy(x), sums, whole, ROWS, COLUMNS)  # type: ignore
    np.testing.assert_array_equal(sums.numpy(), exact)


def test_four_sums_in_one_reduction():
    check(whole=False)


@pytest.mark.parametrize("interpreted", [True, False])
def test_row_sums_as_interpreted_and_as_on_a_device(interpreted, monkeypatch):
    monkeypatch.setattr(ops, "INTERPRETED", tl.constexpr(interpreted))
    check(whole=True)
