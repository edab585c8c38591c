"""One kernel under other launches than the table's, in a process of its own; a row of JSON each.

Run as `python -m benchmarks.gpu.tune_worker KIND KERNEL DEVICE TOKENS [MOST]`; KERNEL is a name of
triton_scan/launches/; at most MOST launches are tried, the table's and its nearest. bf16, 32 heads of 64,
K = 16. Each launch's results are held against those of the table's. Without a GPU: 2 heads of 16,
interpreted, wall-clock times of the whole scan.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks.gpu.errors import limit_of
from benchmarks.problems import (
    cotangents,
    device_microseconds,
    errors,
    milliseconds,
    on,
    problem,
    results,
    worst,
)
from tttscale.bench import report
from tttscale.kernels.triton_scan import segment
from tttscale.kernels.triton_scan.launch_table import architecture_of, launch_of
from tttscale.kernels.triton_scan.launches.launch import Launch

HEADS, DIM, SIZE = 32, 64, 16
_TILED = {
    "linear": ("gradients", "advance", "advance_backward"),
    "mlp": ("readout", "readout_backward", "gradients", "advance", "advance_backward"),
}  # fmt: skip
"""Kernels that take a matrix some rows or columns at a time."""
_STATES = {"linear": 2, "mlp": 4}
"""Tensors of a state."""


def candidates(kind: str, kernel: str, now: Launch) -> list[Launch]:
    """The launch of the table first, then its neighbours in each direction and in pairs."""
    serial = kernel in ("advance", "advance_backward")
    columns, all_stages = {now.inner_columns}, (1, 2)
    all_warps = (now.num_warps // 2, now.num_warps, now.num_warps * 2)
    if kernel in _TILED[kind]:
        columns |= {now.inner_columns // 2, now.inner_columns * 2}
    if serial:  # they take long to compile, and need the registers of many warps
        all_warps, all_stages = ((4, 8), (2, 3)) if kind == "linear" else ((8, 16), (1, 2))
    others = [
        replace(now, num_warps=warps, num_stages=stages, inner_columns=width)
        for width in sorted(columns)
        for warps in all_warps
        for stages in all_stages
    ]
    if kind == "mlp" and kernel == "readout_backward":
        keys = 16 if now.key_columns == 32 else 32
        others += [replace(x, key_columns=keys) for x in others if x.inner_columns >= 32]
    if kind == "mlp" and kernel == "advance":
        others += [replace(launch, resident=not launch.resident) for launch in others]
    if kind == "mlp" and kernel == "advance_backward":
        others += [replace(launch, merged=not launch.merged) for launch in others]
    return [now, *(launch for launch in others if launch != now)]


@contextmanager
def launched_as(kernel: str, launch: Launch) -> Iterator[None]:
    """The kernel is launched so and not as the table says."""

    def changed(
        architecture: int, kind: str, name: str, dim: int, size: int, dtype: torch.dtype
    ) -> Launch:
        found = launch_of(architecture, kind, name, dim, size, dtype)
        return launch if name == kernel else found

    segment.launch_of = changed
    try:
        yield
    finally:
        segment.launch_of = launch_of


def measure(
    kind: str, kernel: str, device: str, tokens: int, most: int | None = None
) -> Iterator[dict[str, Any]]:
    """Microseconds per mini-batch of the kernel under every launch, or why there are none."""
    heads, dim, dtype = (HEADS, DIM, torch.bfloat16) if device == "cuda" else (2, 16, torch.float32)
    inputs = problem(kind, heads, dim, tokens, SIZE, 1, device, torch.float32)
    leaves = on(device, inputs, dtype)
    now = launch_of(architecture_of(torch.device(device)), kind, kernel, dim, SIZE, dtype)
    of_table = [x.double() for x in results(kind, leaves, "triton")]
    launches = nearest_first(candidates(kind, kernel, now))[:most]
    for launch in launches if device == "cuda" else launches[:2]:
        row: dict[str, Any] = {"inner": kind, "kernel": kernel, **asdict(launch)}
        try:
            with launched_as(kernel, launch):
                found = errors(kind, results(kind, leaves, "triton"), of_table)
                of = worst({name: e / limit_of(name, dtype) for name, e in found.items()})
                taken = _microseconds(kind, kernel, leaves, device) / (tokens / SIZE)
            right = found[of] <= limit_of(of, dtype)
            row |= {"us_per_step": taken, "difference": found[of], "right": right}
        except Exception as error:  # too much shared memory, say: a launch that cannot be had
            row |= {
                "us_per_step": None,
                "difference": None,
                "right": False,
                "why": f"{error!r:.200}",
            }
        yield {**row, "now": launch == now}
        if "why" in row and not _device_works(device):
            break


def nearest_first(launches: list[Launch]) -> list[Launch]:
    """The same, by how many fields differ from those of the first."""
    fields = asdict(launches[0])

    def distance(launch: Launch) -> int:
        return sum(value != fields[name] for name, value in asdict(launch).items())

    return sorted(launches, key=distance)


def _device_works(device: str) -> bool:
    """False after an illegal access: whatever this process did next would fail."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _microseconds(kind: str, kernel: str, leaves: list[torch.Tensor], device: str) -> float:
    given = cotangents(results(kind, leaves, "triton")[: 1 + _STATES[kind]])

    def call() -> None:
        results(kind, leaves, "triton", given)

    if device != "cuda":
        return milliseconds(call, device, repeats=1) * 1e3
    taken = sorted(
        sum(t for name, t in device_microseconds(call).items() if _is(name, kernel))
        for _ in range(3)
    )
    if taken[0] <= 0:
        raise RuntimeError(f"the profiler saw no kernel {kernel}")
    return taken[1]


def _is(function: str, kernel: str) -> bool:
    """A kernel function of the device is the one that the table means by this name."""
    names = {
        "gradients": ("token_gradients_kernel",),
        "advance": ("advance_kernel", "advance_streamed_kernel"),
        "advance_backward": ("advance_backward_kernel", "advance_backward_merged_kernel"),
    }
    return function in names.get(kernel, (f"{kernel}_kernel",))


if __name__ == "__main__":
    words = sys.argv[1:]
    asked = int(words[4]) if len(words) > 4 else None
    for tried in measure(words[0], words[1], words[2], int(words[3]), asked):
        report.emit(tried)
