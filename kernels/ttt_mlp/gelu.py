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
    """gelu'(x) and gelu''(x).

    With t = tanh(c (x + a x^3)), b = 1 - t^2, i = c (1 + 3 a x^2) and m = x b i = 2 gelu' - 1 - t:
    gelu'' = c b (1 + 6 a x^2) - t i m. In place, since this is bound by memory.
    """
    square = x * x
    t = (square * (_C * _A)).add_(_C).mul_(x).tanh_()
    slope = times_slope(torch.ones_like(x), x)
    correction = torch.sub(slope, t, alpha=0.5).mul_(2).sub_(1).mul_(t)
    correction.mul_((square * (3 * _A * _C)).add_(_C))
    bell = t.square_().neg_().add_(1)
    curvature = square.mul_(6 * _A * _C).add_(_C).mul_(bell).sub_(correction)
    return slope, curvature
