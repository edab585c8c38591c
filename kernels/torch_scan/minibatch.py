"""Mini-batch layout of a scan and the coefficients of its dual form, shared by both inner learners.

Legend: n mini-batches, N = B*H independent scans, K tokens per mini-batch, f head dim, f1 = f + 1.
Tensors of tokens are laid out [n, N, K, ...] so that one mini-batch of all scans is contiguous.
Inputs carry a column of ones (k' = [k, 1]), and a state matrix carries its bias as the last row, so that
`z = k W + b` and both its updates are one matrix product each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 16
"""Mini-batches between two stored states; states inside a group are replayed from its first."""


def to_minibatches(x: Tensor, size: int, dtype: torch.dtype, ones: bool = False) -> Tensor:
    """[B, H, T, f] -> [n, N, K, f] (or f + 1 with a column of ones); a short last one is zero-filled."""
    batch, heads, length, dim = x.shape
    count = -(-length // size)
    out = x.new_zeros(count, batch * heads, size, dim + int(ones), dtype=dtype)
    flat = x.reshape(batch * heads, length, dim)
    full = length // size
    if full:
        blocks = flat[:, : full * size].view(batch * heads, full, size, dim)
        out[:full, ..., :dim].copy_(blocks.transpose(0, 1))
    if full < count:
        out[full, :, : length - full * size, :dim].copy_(flat[:, full * size :])
    if ones:
        out[..., dim] = 1
    return out


def from_minibatches(x: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """[n, N, K, f] -> [B, H, T, f]; the inverse of `to_minibatches` (extra columns are dropped)."""
    batch, heads, length, dim = shape
    flat = x[..., :dim].transpose(0, 1).reshape(batch * heads, -1, dim)
    return flat[:, :length].reshape(shape).to(dtype)


def join(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, H, i, o] and [B, H, 1, o] -> [N, i + 1, o], a fresh tensor."""
    return torch.cat([weight, bias], dim=2).to(dtype).flatten(0, 1).contiguous()


def split(joined: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """[N, i + 1, o] -> [B, H, i, o], [B, H, 1, o], fresh tensors."""
    full = joined.unflatten(0, (batch, -1))
    return full[:, :, :-1].clone(), full[:, :, -1:].clone()


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Batched product of [n, N, i, j] and [n, N, j, k]."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])


def replay(first: Tensor, keys: Tensor | list[Tensor], G: Tensor) -> Tensor:
    """States [first, first + keys_0 G_0, ...], [g, N, i, o]: the same products as the chain's own."""
    out = first.new_empty(len(keys), *first.shape)
    out[0] = first
    states = out.unbind(0)
    for i in range(len(keys) - 1):
        torch.baddbmm(states[i], keys[i], G[i], out=states[i + 1])
    return out


@dataclass
class Rates:
    """eta_ij = tau_i * lam_j: the reader's factor and the source token's learning rate."""

    lam: Tensor
    """[n, N, K, 1]; zero on the filling of a short last mini-batch."""
    tau: Tensor
    """[K, 1] reader factors."""
    tau_last: Tensor
    """[n, 1, 1, 1]: the factor of each mini-batch's last token, which its update uses."""
    last_row: list[int]
    """Index of that last token in each mini-batch."""

    @classmethod
    def build(cls, lr: Tensor, token_idx: Tensor, size: int, dtype: torch.dtype) -> "Rates":
        """From lr [B, H, T] and token_idx [K]."""
        lam = to_minibatches(lr.unsqueeze(-1), size, dtype)
        tau = token_idx.to(dtype)
        rows = [size - 1] * lam.shape[0]
        if remainder := lr.shape[-1] % size:
            rows[-1] = remainder - 1
        return cls(lam, tau.view(-1, 1), tau[rows].view(-1, 1, 1, 1), rows)

    @property
    def step(self) -> Tensor:
        """[n, N, K, 1]: -tau_last * lam, the weight of a token's gradient in the update."""
        return -self.tau_last * self.lam

    def coefficients(self) -> Tensor:
        """[n, N, K, K]: tril(tau_i lam_j)."""
        return (self.tau * self.lam.transpose(-1, -2)).tril_()

    def grad_token_idx(self, rows: Tensor, last: Tensor) -> Tensor:
        """Add up dtau [n, N, K] of readers and dtau_last [n] of updates -> [K]."""
        grad = rows.sum((0, 1))
        return grad.index_add(0, torch.tensor(self.last_row, device=grad.device), last)
