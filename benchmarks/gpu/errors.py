"""Check every Triton configuration of one learner and head dim against fp64; a row of JSON each.

Each runs again, alone and with neighbours that wait, for equal bits, and on a GPU once more where anything
that makes the host wait is an error.

Run as `python -m benchmarks.gpu.errors KIND DIM DTYPE DEVICE [K TOKENS ...]`. Without a GPU the kernels
are interpreted (TRITON_INTERPRET=1), with a few tokens by default (a head's 1,000 tokens of
TTT-Linear take some ten seconds, of TTT-MLP a minute).
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems import (
    Waiting,
    cotangents,
    errors,
    on,
    problem,
    reference,
    results,
    worst,
)
from tttscale.bench import report

LARGEST = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
LARGEST_OF_TOKEN_IDX = 3e-2
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def limit_of(name: str, dtype: torch.dtype) -> float:
    """Limit the relative error; a place of token_idx is one sum over all tokens, which mostly cancels."""
    if name == "dtoken_idx" and dtype == torch.bfloat16:
        return LARGEST_OF_TOKEN_IDX
    return LARGEST[dtype]


def shapes(dim: int, device: str) -> list[tuple[int, int]]:
    """List (K, tokens): every K with a remainder and over many blocks; long ones for the paper's shape."""
    if device == "cpu":
        return [(16, 75)]
    short = [(size, tokens) for size in (16, 32, 64) for tokens in (75, 1000)]
    return short + ([(16, 8192), (16, 32768)] if dim == 64 else [])


def repeated(kind: str, leaves: list[Tensor], first: list[Tensor]) -> tuple[bool, bool]:
    """Run again without and with neighbours that wait: (the same bits, one made the host wait)."""
    given = cotangents(first[: len(first) - len(leaves)])
    waits = False
    if leaves[0].is_cuda:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for hooks in (None, Waiting()):
                results(kind, leaves, "triton", given, hooks)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            waits = True
        finally:
            torch.cuda.set_sync_debug_mode("default")
    same = True
    for hooks in (None, Waiting()):
        again = results(kind, leaves, "triton", given, hooks)
        same &= all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    return same, waits


def check(
    kind: str, dim: int, dtype: torch.dtype, device: str, given: list[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """Give one row per shape (K, tokens): its errors, the one nearest its limit, that limit."""
    for size, tokens in given or shapes(dim, device):
        began = time.perf_counter()
        batch = 2 if device == "cuda" and tokens < 100 else 1
        inputs = problem(kind, 2, dim, tokens, size, batch, device)
        leaves = on(device, inputs, dtype)
        ours = results(kind, leaves, "triton")
        found = errors(kind, ours, reference(kind, leaves))
        limits = {name: limit_of(name, dtype) for name in found}
        of = worst({name: found[name] / limits[name] for name in found})
        same, waits = repeated(kind, leaves, ours)
        yield {
            "inner": kind,
            "dim": dim,
            "K": size,
            "dtype": str(dtype).removeprefix("torch."),
            "tokens": tokens,
            "error": found[of],
            "of": of,
            "limit": limits[of],
            "errors": found,
            "same_bits": same,
            "host_waits": waits,
            # Also false for a NaN.
            "ok": found[of] <= limits[of] and same and not waits,
            "seconds": round(time.perf_counter() - began, 1),
        }


if __name__ == "__main__":
    words = sys.argv[1:]
    numbers = list(map(int, words[4:]))
    wanted = list(zip(numbers[::2], numbers[1::2], strict=True))
    for checked in check(words[0], int(words[1]), _DTYPES[words[2]], words[3], wanted):
        report.emit(checked)
