"""Token-local layers: RMSNorm with its residual, SwiGLU, rotary positions; and how their operators run."""

import torch
from torch import Tensor, nn

from tttscale.kernels.ops.linear import compute_dtype
from tttscale.kernels.ops.pointwise import EAGER, Operators
from tttscale.kernels.precision import wide_dtype
from tttscale.model.device import to_device


class Layer(nn.Module):
    """A module whose operators are run as they stand, or compiled."""

    operators: Operators = EAGER


def compile_operators(model: nn.Module) -> None:
    """Run what lies between the model's products through torch.compile; results change by rounding."""
    operators = EAGER.compiled()
    for module in model.modules():
        if isinstance(module, Layer):
            module.operators = operators


class RMSNorm(Layer):
    """w * cast(x / rms(x)): normalised in fp32 or wider, cast back, then scaled (ttt-lm-pytorch).

    The residual stream passes through it, so that what comes back along the stream and through the norm is
    added where the latter is formed.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(
        self, x: Tensor, y: Tensor | None = None, parts: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """The stream x [..., D], or x + y, and its norm in the compute dtype.

        parts: what x is the sum of, from left to right, where x itself need not be kept for the backward.
        """
        wanted = self.weight, self.eps, compute_dtype(self.weight)
        if y is None:
            return self.operators.norm(x, *wanted)
        return self.operators.add_norm(x, y, *wanted, *parts)


class SwiGLU(Layer):
    """W_down(silu(W_gate x) * W_up x), no biases."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        run = self.operators
        gate, up = run.linear(x, self.gate_proj.weight, self.up_proj.weight)
        return run.linear(run.swiglu(gate, up), self.down_proj.weight)


class Rotary:
    """Rotary positions modulo the mini-batch: adjacent pairs (a, b) turned by p * theta^(-2i/f)."""

    def __init__(self, head_dim: int, mini_batch_size: int, theta: float) -> None:
        # On the CPU whatever torch's default device is: the tables are copied to where tokens are.
        pairs = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu")
        positions = torch.arange(mini_batch_size, dtype=torch.float64, device="cpu")
        exponents = pairs / head_dim
        angles = torch.outer(positions, theta**-exponents).repeat_interleave(2, dim=-1)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.sin[:, ::2] *= -1
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def tables(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin of each feature at each position of a mini-batch, [K, f], for tokens like x."""
        dtype = wide_dtype(x.dtype)
        key = x.device, dtype
        if key not in self._copies:
            cos, sin = (to_device(t.to(dtype), x.device) for t in (self.cos, self.sin))
            self._copies[key] = cos, sin
        return self._copies[key]
