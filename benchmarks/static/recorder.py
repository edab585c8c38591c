"""Record what a scan launches instead of running it: its own host code on CPU tensors, no GPU needed.

So what is compiled, counted or emulated is exactly what is launched. Without TRITON_INTERPRET.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from tttscale.kernels.triton_scan.linear.segment import TritonLinearScan
from tttscale.kernels.triton_scan.mlp.segment import TritonMLPScan
from tttscale.kernels.triton_scan.scan import TritonScan

DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_LAUNCH = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")
"""Options of a launch that are no arguments of its kernel."""
RECORDED_TOKENS, RECORDED_HEADS = 2048, 2
"""The scan whose launches are recorded."""


class Recorder:
    """Stands in for a launch: keeps what has to be compiled, once per kernel, and what it reads or writes."""

    def __init__(self) -> None:
        self.sources: dict[str, tuple[ASTSource, dict[str, int]]] = {}
        self.tensor_bytes: dict[str, int] = {}
        """Bytes of all tensors that a kernel takes, by its name."""

    def record(self, kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Derive the signature that Triton's launcher would."""
        launch = {name: options.pop(name) for name in _LAUNCH if name in options}
        names = kernel.arg_names
        values = {**dict(zip(names, arguments, strict=False)), **options}
        signature, constants, attributes = {}, {}, {}
        for index, (name, parameter) in enumerate(zip(names, kernel.params, strict=True)):
            value = values[name]
            if parameter.is_constexpr or value is None:
                signature[name], constants[(index,)] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[name] = "*" + DTYPE_NAMES[value.dtype]
                attributes[(index,)] = [["tt.divisibility", 16]]
            else:
                signature[name] = "i32"
                if not parameter.do_not_specialize and value % 16 == 0:
                    attributes[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, signature, constants, attributes)
        name = kernel.__name__
        if name in self.sources and signature != self.sources[name][0].signature:
            name = f"backward_{name}"  # what only a backward asks for, or does without
        self.sources[name] = (source, launch)
        tensors = (x for x in values.values() if isinstance(x, torch.Tensor))
        self.tensor_bytes[name] = sum(x.nbytes for x in tensors)


@contextmanager
def recording() -> Iterator[Recorder]:
    """Record launches instead of running them."""
    recorder, run = Recorder(), JITFunction.run

    def record(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        recorder.record(self, arguments, options)

    JITFunction.run = record
    try:
        yield recorder
    finally:
        JITFunction.run = run


def problem_of(
    kind: str, dim: int, size: int, dtype: torch.dtype, tokens: int, heads: int, capability: int
) -> tuple[TritonScan, tuple[torch.Tensor, ...], torch.Tensor]:
    """A scan of one sequence, its initial state, and its q, laid out as the model has them."""
    inner = dim if kind == "linear" else 4 * dim
    q = torch.zeros(1, tokens, heads, dim, dtype=dtype).transpose(1, 2)
    lr, tau = torch.zeros(1, heads, tokens), torch.zeros(size)
    norm = torch.zeros(heads, dim)
    shapes = [(dim, inner), (1, inner), (inner, dim), (1, dim)][: 2 if kind == "linear" else 4]
    state = tuple(torch.zeros(1, heads, *shape) for shape in shapes)
    scan = {"linear": TritonLinearScan, "mlp": TritonMLPScan}[kind](
        (q, q.clone(), q.clone(), lr, tau, norm, norm), size, torch.float32, capability
    )
    return scan, state, q


def launches(
    kind: str,
    dim: int,
    size: int,
    dtype: torch.dtype,
    tokens: int = RECORDED_TOKENS,
    capability: int = 90,
) -> Recorder:
    """Record all that a forward and a backward of `tokens` tokens launch on such a GPU."""
    scan, state, q = problem_of(kind, dim, size, dtype, tokens, RECORDED_HEADS, capability)
    with recording() as recorder:
        _, saved, last = scan.forward(state)
        scan.backward(saved, torch.zeros_like(q), last)
    return recorder
