"""GELU in its tanh form with its first two derivatives (the inner MLP's activation)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_C = math.sqrt(2 / math.pi)
_A = 0.044715


def gelu(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(c (x + a x^3)))."""
    return F.gelu(x, approximate="tanh")


def times_slope(grad: Tensor, x: Tensor) -> Tensor:
    """grad * gelu'(x)."""
    return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")


def slope_and_curvature(x: Tensor) -> tuple[Tensor, Tensor]:
    """gelu'(x) and gelu''(x)."""
    square = x * x
    t = torch.tanh(_C * (x + _A * square * x))
    inner = _C * (1 + 3 * _A * square)
    bell = 1 - t * t
    slope = 0.5 * (1 + t) + 0.5 * x * bell * inner
    return slope, bell * (inner + 3 * _A * _C * square - x * t * inner * inner)
