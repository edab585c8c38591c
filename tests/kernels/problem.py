"""Random scans, and the inner learner token by token: the definition, with nothing fused.

`primal` takes every inner gradient from autograd (of the squared error itself, keeping its graph),
steps through the tokens one at a time and lets autograd differentiate the whole. It shares no code
with kernels/.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tttscale.kernels.scan import ttt_scan

NAMES = ("q", "k", "v", "lr", "token_idx", "norm_weight", "norm_bias")
KINDS = ("linear", "mlp")


class NothingWaits(TorchDispatchMode):
    """Refuses what makes a host wait for its GPU: values and shapes that depend on data, other devices."""

    WAITS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        devices = {x.device for x in args if isinstance(x, Tensor)} | {(kwargs or {}).get("device")}
        assert not self.WAITS.intersection(func.tags), func
        assert len(devices - {None}) <= 1, func
        return func(*args, **(kwargs or {}))


class Recorder:
    """A StateHooks that writes down when it is called and with what."""

    def __init__(self, awaited=True, outside=None):
        self.peer_waits_for_state = self.peer_waits_for_grad = awaited
        self.calls, self.outside = [], outside
        self.state = self.grad = ()

    def send_state(self, state):
        self.calls.append("send_state")
        self.state = tuple(s.clone() for s in state)

    def recv_grad(self):
        self.calls.append("recv_grad")
        return self.outside

    def send_grad(self, grad):
        self.calls.append("send_grad")
        self.grad = tuple(g.clone() for g in grad)


@dataclass
class Problem:
    kind: str
    size: int
    inputs: list[Tensor]
    state: list[Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.inputs, *self.state]

    def scan(self, *leaves: Tensor, **options) -> tuple[Tensor, ...]:
        """Outputs and final state, flat, of ttt_scan on `leaves` (default: the problem's own)."""
        leaves = leaves or tuple(self.leaves)
        named = dict(zip(NAMES, leaves, strict=False))
        out, last = ttt_scan(
            self.kind, **named, state=leaves[7:], mini_batch_size=self.size, **options
        )
        return out, *last

    def cotangents(self, results, seed=7) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(r.shape, generator=generator, dtype=torch.float64) for r in results]


def problem(kind, size, length, dim, *, batch=2, heads=2, seed=0) -> Problem:
    """Everything differs by head and batch row; rates are large enough for every term to matter."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = (normal(batch, heads, length, dim) for _ in range(3))
    lr = torch.rand(batch, heads, length, generator=generator, dtype=torch.float64) / dim
    token_idx = 1 / torch.arange(1, size + 1, dtype=torch.float64) + normal(size, scale=0.1).abs()
    norm_weight, norm_bias = 1 + normal(heads, dim, scale=0.3), normal(heads, dim, scale=0.3)
    hidden = dim if kind == "linear" else 4 * dim
    state = [
        normal(batch, heads, dim, hidden, scale=dim**-0.5),
        normal(batch, heads, 1, hidden, scale=0.3),
    ]
    if kind == "mlp":
        state.append(normal(batch, heads, hidden, dim, scale=hidden**-0.5))
        state.append(normal(batch, heads, 1, dim, scale=0.3))
    inputs = [q, k, v, lr, token_idx, norm_weight, norm_bias]
    for leaf in (*inputs, *state):
        leaf.requires_grad_()
    return Problem(kind, size, inputs, state)


def layer_norm(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = z - z.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return weight[None, :, None] * centred / torch.sqrt(variance + 1e-6) + bias[None, :, None]


def inner(kind: str, x: Tensor, state: list[Tensor]) -> Tensor:
    z = x @ state[0] + state[1]
    return z if kind == "linear" else F.gelu(z, approximate="tanh") @ state[2] + state[3]


def primal(kind: str, size: int, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Outputs [B, H, T, f] and the final state, flat."""
    q, k, v, lr, token_idx, weight, bias, *state = leaves
    outs = []
    now = state
    for t in range(q.shape[2]):
        at, token = t % size, slice(t, t + 1)
        if at == 0:
            first, sums = now, [torch.zeros_like(w) for w in now]
        key = k[:, :, token]
        error = layer_norm(inner(kind, key, first), weight, bias) - (v[:, :, token] - key)
        grads = torch.autograd.grad(0.5 * (error * error).sum(), first, create_graph=True)
        rate = lr[:, :, token, None]
        sums = [s + rate * g for s, g in zip(sums, grads, strict=True)]
        now = [w - token_idx[at] * s for w, s in zip(first, sums, strict=True)]
        query = q[:, :, token]
        outs.append(query + layer_norm(inner(kind, query, now), weight, bias))
    return torch.cat(outs, dim=2), *now


def assert_close(ours, theirs, tolerance) -> None:
    """Equal up to tolerance, relative to the largest entry of each tensor (at least 1)."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape, i
        scale = max(1.0, b.abs().max().item())
        assert (a - b).abs().max().item() <= tolerance * scale, i
