"""What the card can do at most, to compare all other figures of a round with; a row of JSON each.

Run as `python -m benchmarks.gpu.ceilings DEVICE`. Matrix products in the shapes of the 1.3B model (bf16, and
with gradients summed in fp32 as the model takes them), copies within the device's memory, launches of a
single addition, and clocks and power before and after. On a CPU: fp32 and small.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.machine import card
from benchmarks.problems import milliseconds
from tttscale.bench import report
from tttscale.kernels.ops.linear import matmul_fp32

_TOKENS, _WIDTH, _HIDDEN, _VOCABULARY = 8192, 2048, 5504, 32_000
_PRODUCTS = {
    "square": (8192, 8192, 8192),
    "q, v, o, gate of the TTT layer": (_TOKENS, _WIDTH, _WIDTH),
    "SwiGLU up": (_TOKENS, _WIDTH, _HIDDEN),
    "SwiGLU down": (_TOKENS, _HIDDEN, _WIDTH),
    "head, 2,048 tokens": (2048, _WIDTH, _VOCABULARY),
}
"""Rows, inner length, columns."""
_COPY_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}
_LAUNCHES = 1000
_CPU_SHARE = 32
"""A CPU takes shapes so much smaller."""


def products(device: str) -> Iterator[dict[str, Any]]:
    """Forward, and the gradient of the weights, in TFLOP/s."""
    share, dtype = (1, torch.bfloat16) if device == "cuda" else (_CPU_SHARE, torch.float32)
    generator = torch.Generator(device).manual_seed(0)
    for name, shape in _PRODUCTS.items():
        rows, inner, columns = (size // share for size in shape)
        x = torch.randn(rows, inner, device=device, dtype=dtype, generator=generator)
        w = torch.randn(columns, inner, device=device, dtype=dtype, generator=generator)
        y = torch.randn(rows, columns, device=device, dtype=dtype, generator=generator)
        work = 2 * rows * inner * columns
        calls = {
            "x W^T": lambda x=x, w=w: x @ w.t(),
            "dW = dy^T x, fp32 out": lambda x=x, y=y: matmul_fp32(y.t(), x),
        }
        for what, call in calls.items():
            taken = milliseconds(lambda call=call: [call() for _ in range(10)], device) / 10
            yield {
                "what": f"{what}, {name}",
                "shape": f"{rows} x {inner} x {columns}",
                "value": work / taken / 1e9,
                "unit": "TFLOP/s",
            }


def copies(device: str) -> dict[str, Any]:
    """Bytes read and written per second."""
    size_bytes = _COPY_BYTES[device]
    source = torch.empty(size_bytes // 4, device=device).normal_()
    target = torch.empty_like(source)
    taken = milliseconds(lambda: target.copy_(source), device)
    speed = 2 * size_bytes / taken / 1e6
    shape = f"{size_bytes >> 20} MiB"
    return {"what": "copy, bytes read and written", "shape": shape, "value": speed, "unit": "GB/s"}


def launches(device: str) -> dict[str, Any]:
    """Time of an operation on a single number, one after the other."""
    x = torch.zeros(1, device=device)
    taken = milliseconds(lambda: [x.add_(1) for _ in range(_LAUNCHES)], device)
    return {
        "what": "launch of an addition",
        "shape": f"{_LAUNCHES} times",
        "value": taken * 1e3 / _LAUNCHES,
        "unit": "us",
    }


def clocks(when: str) -> dict[str, Any]:
    """Read clocks and power from the card."""
    return {"what": f"card {when}", "shape": "", "value": None, "unit": "", "card": card()}


def measure(device: str) -> Iterator[dict[str, Any]]:
    """Everything, the card's state first."""
    yield clocks("before")
    yield from products(device)
    yield clocks("right after the products")
    yield copies(device)
    yield launches(device)


if __name__ == "__main__":
    for found in measure(sys.argv[1]):
        report.emit(found)
