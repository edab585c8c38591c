"""Random scans to check and to time, and the errors of what comes out."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tttscale.kernels.scan import StateHooks, ttt_scan

State = tuple[Tensor, ...]


def problem(
    kind: str,
    heads: int,
    dim: int,
    tokens: int,
    size: int = 16,
    batch: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """q, k, v, lr, token_idx, norm weight and bias, then the state; drawn on the device in dtype.

    Keys, values and rates are as large as in a fresh 1.3B model, whose keys went through convolutions. What
    is only timed is drawn in fp32; fp64, which errors are measured in, takes a device far longer.
    """
    generator = torch.Generator(device).manual_seed(heads * dim + tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype, device=device)

    shape = (batch, heads, tokens, dim)
    q, k, v = (scale * normal(*shape) for scale in (0.5, 0.5, 0.9))
    base = 1.0 if kind == "linear" else 0.1
    lr = torch.sigmoid(normal(batch, heads, tokens)) * base / dim
    token_idx = 1 / torch.arange(1, size + 1, dtype=dtype, device=device)
    norm = [1 + 0.1 * normal(heads, dim), 0.1 * normal(heads, dim)]
    inner = dim if kind == "linear" else 4 * dim
    state = [normal(batch, heads, dim, inner), normal(batch, heads, 1, inner)]
    if kind == "mlp":
        state += [normal(batch, heads, inner, dim), normal(batch, heads, 1, dim)]
    return [q, k, v, lr, token_idx, *norm, *(0.1 * s for s in state)]


def on(device: str, inputs: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Leaves on the device: tokens in dtype and in the layer's layout, the rest fp32 or wider."""
    wide = torch.promote_types(dtype, torch.float32)
    leaves = []
    for i, x in enumerate(inputs):
        x = x.to(device, dtype if i < 3 else wide)
        if i < 3:  # [B, T, H, f] in memory
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        leaves.append(x.requires_grad_())
    return leaves


class Waiting:
    """StateHooks of neighbours that wait for the state and its gradient, and send no gradient."""

    peer_waits_for_state = peer_waits_for_grad = True

    def send_state(self, state: State) -> None:
        """Sent."""

    def recv_grad(self) -> State | None:
        """Nobody uses the state."""
        return None

    def send_grad(self, grad: State) -> None:
        """Sent."""


def scan(
    kind: str, leaves: Sequence[Tensor], backend: str, hooks: StateHooks | None = None
) -> tuple[Tensor, State]:
    """The scan of a problem's leaves."""
    q, k, v, lr, token_idx, weight, bias, *state = leaves
    size = token_idx.shape[0]
    return ttt_scan(
        kind, q, k, v, lr, token_idx, weight, bias, tuple(state),
        mini_batch_size=size, backend=backend, hooks=hooks,
    )  # fmt: skip


def cotangents(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Random, on the outputs' device and in their dtypes, otherwise the same for equal shapes."""
    device = outputs[0].device
    generator = torch.Generator(device).manual_seed(7)
    return [
        torch.randn(o.shape, generator=generator, dtype=torch.float64, device=device).to(o.dtype)
        for o in outputs
    ]


def results(
    kind: str,
    leaves: Sequence[Tensor],
    backend: str,
    given: Sequence[Tensor] | None = None,
    hooks: StateHooks | None = None,
) -> list[Tensor]:
    """Outputs, final state and all gradients, for the cotangents given or random ones."""
    out, state = scan(kind, leaves, backend, hooks)
    outputs = [out, *state]
    grads = torch.autograd.grad(outputs, list(leaves), given or cotangents(outputs))
    return [o.detach() for o in outputs] + list(grads)


def reference(kind: str, leaves: Sequence[Tensor]) -> list[Tensor]:
    """fp64 `results` for the very tokens and cotangents that a backend gets, rounded as it gets them."""
    wide = [x.detach().double() for x in leaves]
    wide = on(str(leaves[0].device), wide, torch.float64)
    with torch.no_grad():
        out, state = scan(kind, wide, "torch")
    rounded = [out.to(leaves[0].dtype), *(s.to(leaves[-1].dtype) for s in state)]
    return results(kind, wide, "torch", [c.double() for c in cotangents(rounded)])


NAMES = ("out", "W1", "b1", "W2", "b2")
INPUTS = ("q", "k", "v", "lr", "token_idx", "norm_weight", "norm_bias", "W1", "b1", "W2", "b2")


def names(kind: str) -> list[str]:
    """Names of `results`."""
    parts = 2 if kind == "linear" else 4
    return [*NAMES[: 1 + parts], *("d" + name for name in INPUTS[: 7 + parts])]


def errors(kind: str, ours: Sequence[Tensor], exact: Sequence[Tensor]) -> dict[str, float]:
    """Relative root-mean-square error of each result."""
    return {
        name: float((a.detach().double() - b).norm() / b.norm().clamp(min=1e-300))
        for name, a, b in zip(names(kind), ours, exact, strict=True)
    }


def worst(found: dict[str, float]) -> str:
    """The name of the largest error; not a number is larger than any."""
    return max(found, key=lambda name: (math.isnan(found[name]), found[name]))


def device_microseconds(call: Callable[[], Any]) -> dict[str, float]:
    """Time on the GPU of each kernel that a call launches, by name."""
    activity = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profile:
        call()
        torch.cuda.synchronize()
    return {e.key: e.self_device_time_total for e in profile.key_averages()}


def milliseconds(call: Callable[[], Any], device: str, repeats: int = 7) -> float:
    """Median over repeats, after two untimed calls."""
    import time

    taken = []
    for i in range(repeats + 2):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if i >= 2:
            taken.append((time.perf_counter() - began) * 1e3)
    return sorted(taken)[len(taken) // 2]
