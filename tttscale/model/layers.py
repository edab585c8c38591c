"""Token-local layers: RMSNorm, SwiGLU, rotary positions."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tttscale.model.device import to_device


def rms_normalised(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """w * cast(x / rms(x)): normalised in fp32 or wider, cast back, then scaled (ttt-lm-pytorch)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(wide, (x.shape[-1],), eps=eps).to(x.dtype) * weight


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(gate) * up


class RMSNorm(nn.Module):
    """`rms_normalised` with its weight."""

    operator: Callable[[Tensor, Tensor, float], Tensor] = staticmethod(rms_normalised)

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D], same dtype."""
        return self.operator(x, self.weight, self.eps)


class SwiGLU(nn.Module):
    """W_down(silu(W_gate x) * W_up x), no biases."""

    operator: Callable[[Tensor, Tensor], Tensor] = staticmethod(gated)

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down_proj(self.operator(self.gate_proj(x), self.up_proj(x)))


def compile_operators(model: nn.Module) -> None:
    """Run the model's RMSNorm and the activation of SwiGLU through torch.compile.

    One function each for all layers and lengths. Results change by rounding.
    """
    norm, gate = torch.compile(rms_normalised, dynamic=True), torch.compile(gated, dynamic=True)
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.operator = norm
        elif isinstance(module, SwiGLU):
            module.operator = gate


class Rotary:
    """Rotary positions modulo the mini-batch, adjacent pairs (a, b) turned by p * theta^(-2i/f)."""

    def __init__(self, head_dim: int, mini_batch_size: int, theta: float) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        positions = torch.arange(mini_batch_size, dtype=torch.float64)
        angles = torch.outer(positions, theta**-exponents)
        self.turns = torch.polar(torch.ones_like(angles), angles)  # [K, f/2]
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def tables(self, x: Tensor) -> Tensor:
        """Complex factors [T, 1, f/2] for x [B, T, H, f] that starts at a multiple of K."""
        dtype = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        if (x.device, dtype) not in self._copies:
            self._copies[x.device, dtype] = to_device(self.turns.to(dtype), x.device)
        turns = self._copies[x.device, dtype]
        repeats = -(-x.shape[1] // turns.shape[0])
        return turns.repeat(repeats, 1)[: x.shape[1]].unsqueeze(1)

    @staticmethod
    def turn(x: Tensor, tables: Tensor) -> Tensor:
        """Rotate x [B, T, H, f]; trigonometry in fp32 or wider."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * tables).flatten(-2).to(x.dtype)
