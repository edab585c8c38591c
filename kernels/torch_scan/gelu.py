"""GELU in its tanh form with its first two derivatives (the inner MLP's activation).

0.5 x (1 + tanh(c (x + a x^3))) = x s(w) with the logistic s and w = 2 c (x + a x^3): a logistic costs a
quarter of a tanh, and one serves the value and both derivatives.
"""

import math

import torch
from torch import Tensor

_C = 2 * math.sqrt(2 / math.pi)
_A = 0.044715


def gelu(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x s(w)."""
    return torch.mul(x, _logistic(x)[0], out=out)


def gelu_and_slope(x: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x s and its derivative s + x s (1 - s) w'; the value goes to `out` if there is one."""
    s, square = _logistic(x)
    value = torch.mul(x, s, out=out)
    inner = square.mul_(3 * _A * _C).add_(_C)
    inner.mul_(1 - s).mul_(value)
    return value, s.add_(inner)


def slope_and_curvature(x: Tensor) -> tuple[Tensor, Tensor]:
    """s + x d w' and d (2 w' + x ((1 - 2 s) w'^2 + w'')) , where d = s (1 - s)."""
    s, square = _logistic(x)
    inner = square.mul_(3 * _A * _C).add_(_C)
    bell = torch.addcmul(s, s, s, value=-1)
    curvature = (inner * inner).mul_(torch.add(1, s, alpha=-2)).add_(x, alpha=6 * _A * _C)
    curvature.mul_(x).add_(inner, alpha=2).mul_(bell)
    return s.addcmul_(bell.mul_(x), inner), curvature


def _logistic(x: Tensor) -> tuple[Tensor, Tensor]:
    """s(w) and x^2."""
    square = x * x
    return (square * (_A * _C)).add_(_C).mul_(x).sigmoid_(), square
