"""The GPU round: results on the device against fp64, and what a scan takes there.

Run as `python -m tttscale.bench.gpu_check OUT`. Without a GPU it does the same on the CPU, small, and
says so.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tttscale.bench import report
from tttscale.kernels.scan import ttt_scan

LARGEST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def problem(kind: str, heads: int, dim: int, tokens: int) -> list[Tensor]:
    """Random inputs of a scan in fp64: q, k, v, lr, token_idx, norm weight and bias, state."""
    generator = torch.Generator().manual_seed(heads * dim + tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens_shape = (1, heads, tokens, dim)
    base = 1.0 if kind == "linear" else 0.1
    lr = torch.sigmoid(normal(1, heads, tokens)) * base / dim
    token_idx = 1 / torch.arange(1, 17, dtype=torch.float64)
    norm = [1 + 0.1 * normal(heads, dim), 0.1 * normal(heads, dim)]
    inner = dim if kind == "linear" else 4 * dim
    state = [0.02 * normal(1, heads, dim, inner), 0.02 * normal(1, heads, 1, inner)]
    if kind == "mlp":
        state += [0.02 * normal(1, heads, inner, dim), 0.02 * normal(1, heads, 1, dim)]
    return [*(normal(*tokens_shape) for _ in range(3)), lr, token_idx, *norm, *state]


def run(kind: str, inputs: list[Tensor], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Outputs, final state and all gradients."""
    moved = [
        x.to(device, dtype if i < 3 else torch.promote_types(dtype, torch.float32))
        for i, x in enumerate(inputs)
    ]
    leaves = [x.detach().requires_grad_() for x in moved]
    q, k, v, lr, token_idx, weight, bias, *state_in = leaves
    out, state = ttt_scan(
        kind, q, k, v, lr, token_idx, weight, bias, tuple(state_in), mini_batch_size=16
    )
    total = out.to(lr.dtype).square().mean() + sum(s.square().mean() for s in state)
    grads = torch.autograd.grad(total, leaves)
    return [out.detach(), *(s.detach() for s in state), *grads]


def worst_error(ours: list[Tensor], exact: list[Tensor]) -> float:
    """Largest relative error (rms) over all results."""
    return max(
        float((a.double().cpu() - b).norm() / b.norm().clamp(min=1e-300))
        for a, b in zip(ours, exact, strict=True)
    )


def seconds(call: Callable[[], Any], device: str) -> float:
    """Best of three, after one."""
    best = float("inf")
    for i in range(4):
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if i:
            best = min(best, time.perf_counter() - began)
    return best


def main(out: Path) -> int:
    """Check, measure, write the report; exit code 1 if an error is too large."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = (
        torch.cuda.get_device_name() if device == "cuda" else "no GPU found: the CPU, small shapes"
    )
    lengths = (75, 1024) if device == "cuda" else (75,)
    rows, failed = [], 0
    for kind in ("linear", "mlp"):
        for dim in (16, 32, 64, 96, 128) if device == "cuda" else (16, 64):
            for tokens in lengths:
                inputs = problem(kind, 2, dim, tokens)
                exact = run(kind, inputs, torch.float64, "cpu")
                for dtype, limit in LARGEST_ERROR.items():
                    error = worst_error(run(kind, inputs, dtype, device), exact)
                    failed += error > limit
                    rows.append(
                        {
                            "inner": kind,
                            "head dim": dim,
                            "tokens": tokens,
                            "dtype": str(dtype)[6:],
                            "worst relative error": f"{error:.1e}",
                            "limit": f"{limit:.0e}",
                            "ok": "yes" if error <= limit else "NO",
                        }
                    )
    timed = []
    for kind in ("linear", "mlp"):
        heads, tokens = (32, 8192) if device == "cuda" else (2, 512)
        inputs = problem(kind, heads, 64, tokens)
        taken = seconds(lambda k=kind, x=inputs: run(k, x, torch.float32, device), device)
        timed.append(
            {
                "inner": kind,
                "heads": heads,
                "tokens": tokens,
                "backend": "torch",
                "us per mini-batch, forward + backward": f"{taken * 1e6 / (tokens / 16):.1f}",
            }
        )
    sections = [
        ("Device", name),
        ("Against fp64", report.table(rows)),
        ("Time", report.table(timed)),
    ]
    report.write(out, "GPU check", sections, {"device": name, "errors": rows, "time": timed})
    print(out.with_suffix(".md").read_text())
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
