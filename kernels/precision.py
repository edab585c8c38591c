"""Precision: parameters and tokens may be bf16 or fp16, sums and statistics are always fp32 or wider.

Two rules hold for every operator. Everything but an operand of a product with tokens (norms, biases, filters,
rates, states) is widened before it is used. And autocast ends where an operator begins: each decides its own
dtypes, and a product that it takes in fp32 must not become a bf16 one.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


def widened(x: Tensor) -> Tensor:
    """x in fp32 or wider; x itself where it is."""
    return x.to(wide_dtype(x.dtype))


def without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with autocast off for the device of its first tensor, whoever calls it from wherever.

    A backward may be called inside autocast as well as outside.
    """

    @wraps(function)
    def run(*arguments: Any) -> Any:
        device = next((x.device.type for x in arguments if isinstance(x, Tensor)), None)
        if device is None or not torch.is_autocast_enabled(device):
            return function(*arguments)
        with torch.autocast(device, enabled=False):
            return function(*arguments)

    return run
