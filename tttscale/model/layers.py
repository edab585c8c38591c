"""Token-local layers: RMSNorm, SwiGLU, rotary positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """w * cast(x / rms(x)): normalised in fp32 or wider, cast back, then scaled (ttt-lm-pytorch)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D], same dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = F.rms_norm(wide, (x.shape[-1],), eps=self.eps)
        return normed.to(x.dtype) * self.weight


class SwiGLU(nn.Module):
    """W_down(silu(W_gate x) * W_up x), no biases."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Rotary:
    """Rotary positions modulo the mini-batch, adjacent pairs (a, b) turned by p * theta^(-2i/f)."""

    def __init__(self, head_dim: int, mini_batch_size: int, theta: float) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        positions = torch.arange(mini_batch_size, dtype=torch.float64)
        angles = torch.outer(positions, theta**-exponents)
        self.turns = torch.polar(torch.ones_like(angles), angles)  # [K, f/2]

    def tables(self, x: Tensor) -> Tensor:
        """Complex factors [T, 1, f/2] for x [B, T, H, f] that starts at a multiple of K."""
        double = x.dtype == torch.float64
        turns = self.turns.to(x.device, torch.complex128 if double else torch.complex64)
        repeats = -(-x.shape[1] // turns.shape[0])
        return turns.repeat(repeats, 1)[: x.shape[1]].unsqueeze(1)

    @staticmethod
    def turn(x: Tensor, tables: Tensor) -> Tensor:
        """Rotate x [B, T, H, f]; trigonometry in fp32 or wider."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * tables).flatten(-2).to(x.dtype)
