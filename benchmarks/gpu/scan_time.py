"""Time and memory of scans on a GPU, ours or a peer's, in a process of its own; a row of JSON each.

Run as `python -m benchmarks.gpu.scan_time WHO KIND DEVICE BATCHxTOKENS ...`. A shape that fails (a peer that
runs out of memory, say) becomes a row with its error. WHO: ours, ours-torch, compiled (torch.compile of a
mini-batch of the definition), fla-chunk, fla-fused, gated-delta (fla-core, where it can be imported). bf16,
32 heads of 64, K = 16; on a CPU 2 heads of 16, interpreted.
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.problems import device_microseconds, milliseconds, on, problem, scan
from tttscale.bench import report

HEADS, DIM, SIZE = 32, 64, 16

Call = Callable[[], Tensor]


def ours(kind: str, leaves: list[Tensor], backend: str) -> Call:
    """The scan of this project."""
    return lambda: scan(kind, leaves, backend)[0]


def compiled(leaves: list[Tensor]) -> Call:
    """The definition (paper, dual form), a mini-batch at a time under torch.compile. TTT-Linear."""
    q, k, v, lr, tau, weight, bias, W0, b0 = leaves

    def step(
        W: Tensor, b: Tensor, q: Tensor, k: Tensor, v: Tensor, lam: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute one mini-batch: the state after it, and its outputs."""
        gamma, beta = weight[None, :, None], bias[None, :, None]
        z = k @ W.to(k.dtype) + b
        normed = F.layer_norm(z.float(), (z.shape[-1],), eps=1e-6)
        rstd = torch.rsqrt(z.float().var(-1, unbiased=False, keepdim=True) + 1e-6)
        y = gamma * (gamma * normed + beta - (v - k))
        g = y - y.mean(-1, keepdim=True) - normed * (y * normed).mean(-1, keepdim=True)
        g = (g * rstd).to(k.dtype)
        eta = torch.tril(tau[:, None] * lam[:, :, None, :]).to(k.dtype)
        zq = q @ W.to(k.dtype) + b - (eta * (q @ k.transpose(-1, -2) + 1)) @ g
        last = (tau[-1] * lam).unsqueeze(-1).to(k.dtype)
        W = W - ((last * k).transpose(-1, -2) @ g).float()
        b = b - (last * g).float().sum(-2, keepdim=True)
        out = q + (gamma * F.layer_norm(zq.float(), (q.shape[-1],), eps=1e-6) + beta)
        return W, b, out.to(q.dtype)

    fast = torch.compile(step)

    def call() -> Tensor:
        """Run all mini-batches, one after the other."""
        W, b, outs = W0, b0, []
        for begin in range(0, q.shape[2], SIZE):
            part = [x[:, :, begin : begin + SIZE] for x in (q, k, v, lr)]
            W, b, out = fast(W, b, *part)
            outs.append(out)
        return torch.cat(outs, dim=2)

    return call


def fla(who: str, leaves: list[Tensor]) -> Call:
    """fla-core's kernels: fewer operations than ours (rates per row only, no output norm)."""
    q, k, v, lr, tau, weight, bias, W, b = leaves
    q, k, v = (x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (q, k, v))
    batch, tokens, heads, _ = q.shape
    leaves[:3] = [q, k, v]
    if who == "gated-delta":
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # type: ignore

        beta = torch.rand(batch, tokens, heads, device=q.device, dtype=q.dtype)
        decay = F.logsigmoid(torch.randn(batch, tokens, heads, device=q.device))
        leaves[:] = [q, k, v, beta.requires_grad_(), decay.requires_grad_()]
        return lambda: chunk_gated_delta_rule(*leaves[:3], decay, beta, scale=1.0)[0]
    # Its norm parameters have to be in the tokens' dtype.
    weight, bias = (x.detach().to(q.dtype).requires_grad_() for x in (weight, bias))
    rows = tau.detach().repeat(tokens // SIZE + 1)[:tokens]
    eta = (rows[None, :, None] * lr.detach().mean()).expand(batch, tokens, heads)
    eta = eta.unsqueeze(-1).to(q.dtype).contiguous().requires_grad_()
    leaves[:] = [q, k, v, weight, bias, eta, W, b]
    common = (q, k, v, weight, bias, SIZE, eta, 1.0, 1e-6, W, b, True)
    if who == "fla-chunk":
        from fla.ops.ttt.chunk import ChunkTTTLinearFunction  # type: ignore

        return lambda: ChunkTTTLinearFunction.apply(*common, None, None)[0]
    from fla.ops.ttt.fused_chunk import FusedChunkTTTLinearFunction  # type: ignore

    return lambda: FusedChunkTTTLinearFunction.apply(*common, None)[0]


def measure(who: str, kind: str, batch: int, tokens: int, device: str) -> dict[str, Any]:
    """Milliseconds of forward and of forward + backward, and the peak of allocated memory."""
    heads, dim, dtype = (HEADS, DIM, torch.bfloat16) if device == "cuda" else (2, 16, torch.float32)
    inputs = problem(kind, heads, dim, tokens, SIZE, batch, device, torch.float32)
    leaves = on(device, inputs, dtype)
    began = time.perf_counter()
    if who.startswith("ours"):
        call = ours(kind, leaves, "torch" if who == "ours-torch" else "triton")
    elif who == "compiled":
        call = compiled(leaves)
    else:
        call = fla(who, leaves)
    d_out = torch.randn_like(call().detach())

    def both() -> None:
        torch.autograd.grad(call(), leaves, d_out, allow_unused=True)

    both()
    first_seconds = time.perf_counter() - began
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        forward = milliseconds(call, device)
    whole = milliseconds(both, device)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    steps = tokens / SIZE
    return {
        "who": who,
        "inner": kind,
        "batch": batch,
        "tokens": tokens,
        "forward_ms": forward,
        "both_ms": whole,
        "forward_us_per_step": forward * 1e3 / steps,
        "both_us_per_step": whole * 1e3 / steps,
        "peak_bytes": peak,
        "first_call_seconds": first_seconds,
        "kernels": _kernels(both, steps) if who == "ours" and device == "cuda" else {},
    }


def _kernels(both: Callable[[], None], steps: float) -> dict[str, float]:
    """Microseconds per mini-batch step of every kernel of ours."""
    times = device_microseconds(both)
    return {name: t / steps for name, t in times.items() if name.endswith("_kernel")}


def measure_all(who: str, kind: str, device: str, shapes: list[str]) -> Iterator[dict[str, Any]]:
    """One row per shape, such as "1x8192"."""
    for shape in shapes:
        batch, tokens = map(int, shape.split("x"))
        try:
            yield measure(who, kind, batch, tokens, device)
        except Exception as error:  # a peer's trouble must not hide the other figures
            yield {"who": who, "inner": kind, "error": f"{shape}: {error!r:.300}"}
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    words = sys.argv[1:]
    for measured in measure_all(words[0], words[1], words[2], words[3:]):
        report.emit(measured)
