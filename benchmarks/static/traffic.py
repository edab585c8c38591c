"""Bytes that one block reads and writes, counted and not measured: its products, its scan, all other calls.

Run as `python -m benchmarks.static.traffic PRESET TOKENS`, without TRITON_INTERPRET; prints one JSON list. A
forward and a backward run on tensors without data, in bf16 under autocast. Each call of torch counts with all
that it reads and writes, an operator that is compiled with its own arguments and results, and a Triton kernel
with its arguments, each once.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import JITFunction

from tttscale.kernels import scan
from tttscale.kernels.ops import linear
from tttscale.kernels.ops.compiled_op import Operator
from tttscale.kernels.ops.linear import MultiLinear, cast_cache
from tttscale.kernels.ops.pointwise import EAGER, Operators
from tttscale.kernels.triton_scan.linear.segment import TritonLinearScan
from tttscale.kernels.triton_scan.mlp.segment import TritonMLPScan
from tttscale.model.architecture import TTTConfig, preset_fields
from tttscale.model.language_model import Block
from tttscale.model.layers import Layer

PARTS = ("products", "scan", "between", "parameters")
"""Matrix products of tokens; Triton's kernels; all else that touches tokens; gradients of parameters."""
_SCANS = {"linear": TritonLinearScan, "mlp": TritonMLPScan}
_WRITTEN_ONLY = ("zeros", "zeros_like", "new_zeros", "fill_", "zero_")


def tensors_in(x: Any) -> Iterator[Tensor]:
    """List all tensors of nested tuples and lists."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for y in x:
            yield from tensors_in(y)


def bytes_of(x: Any) -> int:
    """Sum the bytes of all tensors; an expanded element counts once, and each tensor too."""
    sizes = {id(t): min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors_in(x)}
    return sum(sizes.values())


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


class Counted(TorchDispatchMode):
    """Adds up what every call moves, by part."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.paused = tokens, 0
        self._touched: set[int] = set()
        """Storages that the function which counts as one pass has read so far."""
        self.bytes, self.calls = Counter(), Counter()

    def add(self, part: str, moved_bytes: int) -> None:
        """One call."""
        self.bytes[part] += moved_bytes
        self.calls[part] += 1

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run it, and count it unless it only looks at memory in another way."""
        out = func(*args, **(kwargs or {}))
        if self.paused and not func.is_view:
            self._touched.update(map(_storage, tensors_in([*args, *(kwargs or {}).values()])))
        name = func.__name__.split(".")[0]
        looks = func.is_view or name.startswith(("empty", "new_empty", "detach", "_unsafe_view"))
        if not (self.paused or looks) and next(tensors_in(out), None) is not None:
            given = () if name in _WRITTEN_ONLY else [*args, *(kwargs or {}).values()]
            moved = [out] if name in _WRITTEN_ONLY else [out, *given]
            changed_in_place = func._schema.is_mutable and name != "copy_"
            self.add(self._part(name, moved), bytes_of(moved) + changed_in_place * bytes_of(out))
        return out

    def _part(self, name: str, moved: Any) -> str:
        if all(d < self.tokens for t in tensors_in(moved) for d in t.shape):
            return "parameters"
        return "products" if name in ("mm", "bmm", "addmm") else "between"

    def launched(self, *arguments: Any, **_: Any) -> None:
        """Stands in for the launch of a Triton kernel, which does not bind it: all are the launch's."""
        self.add("scan", bytes_of(arguments))

    def as_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted as one pass over the arguments that it reads, and its results."""

        def run(*arguments: Any) -> Any:
            """What the function returns."""
            self._touched.clear()
            self.paused += 1
            results = function(*arguments)
            self.paused -= 1
            given = {id(t): t for t in tensors_in(arguments)}
            read = [t for t in given.values() if _storage(t) in self._touched]  # others are kept
            made = {id(t): t for t in tensors_in(results) if id(t) not in given}
            self.add("between", bytes_of([read, list(made.values())]))
            return results

        return run

    def compiled(self, plain: Operators) -> Operators:
        """Give all operators with each of their functions counted as one pass."""
        as_one = {
            f.name: Operator(
                self.as_one(operator.forward),
                self.as_one(operator.backward),
                operator.again and self.as_one(operator.again),
            )
            for f in fields(plain)
            if isinstance(operator := getattr(plain, f.name), Operator)
        }
        return replace(plain, **as_one, linear=MultiLinear(self.as_one(plain.linear.add)))


@contextmanager
def _without_data(counted: Counted, config: TTTConfig) -> Iterator[None]:
    """Tensors have no data, kernels are not launched, and products give fp32 as they do on a GPU."""

    def wide(a: Tensor, b: Tensor) -> Tensor:
        return torch.mm(a, b, out_dtype=torch.float32)

    with (
        FakeTensorMode(),
        mock.patch.object(JITFunction, "run", counted.launched),
        mock.patch.object(scan, "_scan_type", return_value=_SCANS[config.ttt_layer_type]),
        mock.patch.object(linear, "matmul_fp32", wide),
        torch.autocast("cpu", torch.bfloat16),
        cast_cache(),
    ):
        yield


def count(preset: str, tokens: int, compiled: bool) -> list[dict[str, Any]]:
    """One row per direction and part."""
    config, counted = TTTConfig(**preset_fields(preset)), Counted(tokens)
    rows = []
    with _without_data(counted, config):
        block, x = (
            Block(config, f"ttt-{config.ttt_layer_type}"),
            torch.zeros(1, tokens, config.hidden_size, requires_grad=True),
        )
        for module in block.modules():
            if isinstance(module, Layer) and compiled:
                module.operators = counted.compiled(EAGER)
        # From here on weights are cast, and have gradients to which the next are added.
        block(x).sum().backward()
        for direction in ("forward", "backward"):
            counted.bytes.clear()
            counted.calls.clear()
            with counted:
                if direction == "forward":
                    out = block(x)
                else:
                    torch.autograd.backward(out, torch.empty_like(out))
            rows += [
                {
                    "preset": preset,
                    "tokens": tokens,
                    "compiled": compiled,
                    "direction": direction,
                    "part": part,
                    "bytes_per_token": round(counted.bytes[part] / tokens),
                    "calls": counted.calls[part],
                }
                for part in PARTS
            ]
    return rows


if __name__ == "__main__":
    shape = sys.argv[1], int(sys.argv[2])
    print(json.dumps([row for compiled in (False, True) for row in count(*shape, compiled)]))
