"""Gradient of the inner loss at the pre-LayerNorm output, and the gradient of that gradient.

The inner learner f(x) = x + LN(z; gamma, beta) is fitted to v with half the squared error, hence with the
target t = v - k (arXiv 2407.04620, section 2.7). With x^ = (z - mean)/sigma and s = 1/sigma,

    y = gamma^2 x^ + u,   u = gamma (beta - t)                      the gradient at x^
    g = s (y - mean(y) - x^ mean(y x^))                             the gradient at z

Both lines are a LayerNorm and its backward, so each is one fused torch call. The derivation of `Jacobian`
is in ../README.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-6
"""LayerNorm's epsilon inside and after the inner learner (ttt-lm-pytorch, `ln_fwd`)."""

_ONLY_INPUT = [True, False, False]


def normalise(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x^, mean and 1/sigma of z over its last dim."""
    return torch.native_layer_norm(z, [z.shape[-1]], None, None, EPS)


def norm_backward(grad: Tensor, z: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Gradient at z for a gradient at x^: s (grad - mean(grad) - x^ mean(grad x^))."""
    return torch.ops.aten.native_layer_norm_backward(
        grad, z, [z.shape[-1]], mean, rstd, None, None, _ONLY_INPUT
    )[0]


def gradient(z: Tensor, u: Tensor, gamma2: Tensor) -> Tensor:
    """The inner gradient g at z; u as above, gamma2 = gamma^2 broadcastable to z."""
    normed, mean, rstd = normalise(z)
    return norm_backward(torch.addcmul(u, gamma2, normed), z, mean, rstd)


@dataclass
class Jacobian:
    """The transposed derivative of `gradient`, linear in p = dL/dg; all that p does not touch is prepared.

    dy = LNb(p);  dx^ = gamma^2 dy - s mean(y x^) p - s mean(p x^) y;  dz = LNb(dx^) - s x^ mean(p g).
    """

    z: Tensor
    g: Tensor
    gamma2: Tensor
    normed: Tensor
    mean: Tensor
    rstd: Tensor
    minus_sm: Tensor
    """-s mean(y x^), a row constant."""
    y_scaled: Tensor
    """-s y / f."""
    x_scaled: Tensor
    """-s x^ / f."""

    @classmethod
    def prepare(cls, z: Tensor, u: Tensor, g: Tensor, gamma2: Tensor) -> "Jacobian":
        """For z, u, g [..., f]."""
        normed, mean, rstd = normalise(z)
        y = torch.addcmul(u, gamma2, normed)
        scale = rstd * (-1.0 / z.shape[-1])
        row = torch.linalg.vecdot(y, normed).unsqueeze(-1)
        return cls(z, g, gamma2, normed, mean, rstd, row * scale, y * scale, normed * scale)

    def steps(self) -> list["Jacobian"]:
        """One per mini-batch, views of the first dim."""
        fields = (self.z, self.g, self.normed, self.mean, self.rstd)
        scaled = (self.minus_sm, self.y_scaled, self.x_scaled)
        return [
            Jacobian(z, g, self.gamma2, normed, mean, rstd, *rest)
            for z, g, normed, mean, rstd, *rest in zip(
                *(t.unbind(0) for t in fields + scaled), strict=True
            )
        ]

    def transpose(self, p: Tensor, out: Tensor) -> Tensor:
        """Write dz for p into out and return dy, which is also the gradient at u."""
        dy = norm_backward(p, self.z, self.mean, self.rstd)
        dx = p * self.minus_sm
        dx.addcmul_(self.gamma2, dy)
        dx.addcmul_(torch.linalg.vecdot(p, self.normed).unsqueeze(-1), self.y_scaled)
        dz = norm_backward(dx, self.z, self.mean, self.rstd)
        torch.addcmul(dz, torch.linalg.vecdot(p, self.g).unsqueeze(-1), self.x_scaled, out=out)
        return dy


@dataclass
class Target:
    """The per-head norm parameters and the tokens' targets in mini-batch layout."""

    gamma: Tensor
    """[N, 1, f]."""
    beta: Tensor
    """[N, 1, f]."""
    gamma2: Tensor
    """gamma^2, [N, K, f], dense because it meets every step of the chain."""
    miss: Tensor
    """beta - (v - k), [n, N, K, f]."""

    @classmethod
    def build(cls, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, batch: int) -> "Target":
        """From k, v [n, N, K, f] and the norm's weight, bias [H, f]."""
        gamma = weight.to(k.dtype).repeat(batch, 1).unsqueeze(1)
        beta = bias.to(k.dtype).repeat(batch, 1).unsqueeze(1)
        gamma2 = (gamma * gamma).expand(-1, k.shape[2], -1).contiguous()
        return cls(gamma, beta, gamma2, (k - v).add_(beta))

    @property
    def u(self) -> Tensor:
        """gamma (beta - t), [n, N, K, f]."""
        return self.gamma * self.miss

    def backward(self, dy: Tensor, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients at v (that at k is its negative), gamma and beta [N, f] for dy, x^ [n, N, K, f]."""
        dgamma = sum_tokens(dy, self.miss)
        dgamma += 2 * self.gamma[:, 0] * sum_tokens(dy, normed)
        dbeta = self.gamma[:, 0] * dy.sum((0, 2))
        return dy * -self.gamma, dgamma, dbeta


def gradients(z: Tensor, target: Target) -> Tensor:
    """`gradient` of all mini-batches z [n, N, K, f], with the bits of one at a time."""
    return by_minibatch(lambda z, u: gradient(z, u, target.gamma2), z, target.u)


_VECTOR = 64
"""Elements; a multiple of what any processor's vectors hold."""


def by_minibatch(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A function of rows over tensors [n, N, K, .], with the bits that it has one mini-batch at a time.

    In one call where mini-batches fill whole vectors: the elements of a rest take another code.
    """
    if all(x[0].numel() % _VECTOR == 0 and x.shape[-1] % _VECTOR == 0 for x in tensors):
        return function(*tensors)
    return torch.stack([function(*of) for of in zip(*tensors, strict=True)])


def sum_tokens(a: Tensor, b: Tensor) -> Tensor:
    """Sum of a * b [n, N, K, f] over mini-batches and tokens -> [N, f]."""
    return (a * b).sum((0, 2))
