"""Stands in for Triton's launches: kernels are compiled for a GPU, and their PTX run on the CPU's tensors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from benchmarks.ptx.execute import Block
from benchmarks.ptx.memory import Clock, FaultError, Space
from benchmarks.ptx.parse import Program, parse
from benchmarks.static.recorder import Recorder

GAP_BYTES = 4096
"""Between two tensors, where no access is allowed."""


class Device:
    """A GPU of some generation, as far as one block at a time goes."""

    def __init__(self, capability: int) -> None:
        self.capability, self.programs, self.launches = capability, {}, []

    def launch(
        self, kernel: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any
    ) -> None:
        """Do what `kernel[grid](...)` does."""
        recorder = Recorder()
        recorder.record(kernel, arguments, options)
        ((source, how),) = recorder.sources.values()
        program, shared_bytes = self._compiled(source, how)
        self.launches.append(kernel.__name__)
        given = [
            value
            for name, value in zip(kernel.arg_names, arguments, strict=False)
            if source.signature[name] != "constexpr"
        ]
        run_program(program, shared_bytes, given, (*grid, 1, 1)[:3])

    def _compiled(self, source: ASTSource, how: dict[str, Any]) -> tuple[Program, int]:
        key = (source.hash(), tuple(sorted(how.items(), key=str)))
        if key not in self.programs:
            target = GPUTarget("cuda", self.capability, 32)
            built = triton.compile(source, target=target, options=how)
            self.programs[key] = parse(built.asm["ptx"]), built.metadata.shared
        return self.programs[key]


def run_program(
    program: Program, shared_bytes: int, given: Sequence[Any], grid: tuple[int, ...]
) -> None:
    """All blocks of a kernel, one after the other, on the tensors and numbers given."""
    clock = Clock()
    memory, addresses = _memory_of([x for x in given if isinstance(x, torch.Tensor)], clock)
    arguments = [addresses[id(x)] if isinstance(x, torch.Tensor) else int(x) for x in given]
    arguments += [0] * (len(program.parameters) - len(arguments))  # scratch that none asks for
    for place in product(*(range(n) for n in reversed(grid))):
        clock.next_block()
        shared = Space("shared", max(shared_bytes // 2, 1), clock)
        Block(program, memory, shared, clock, arguments, place[::-1], grid).run()
    memory.copy_back()


def _memory_of(tensors: Sequence[torch.Tensor], clock: Clock) -> "tuple[_Global, dict[int, int]]":
    """One memory that holds all their storages, and the address of each tensor."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors}
    begins, end = {}, GAP_BYTES
    for pointer, storage in storages.items():
        begins[pointer] = end
        end += -(-storage.nbytes() // GAP_BYTES) * GAP_BYTES + GAP_BYTES
    memory = _Global("global", end // 2, clock)
    for pointer, storage in storages.items():
        memory.add(begins[pointer], storage)
    addresses = {
        id(x): begins[x.untyped_storage().data_ptr()] + x.storage_offset() * x.element_size()
        for x in tensors
    }
    return memory, addresses


class _Global(Space):
    """Only the tensors' own bytes may be touched."""

    def __init__(self, name: str, places: int, clock: Clock) -> None:
        super().__init__(name, places, clock)
        self.inside = np.zeros(places, bool)
        self.parts = []

    def add(self, begin: int, storage: torch.UntypedStorage) -> None:
        """A tensor's storage at a byte address."""
        data = torch.empty(0, dtype=torch.int16).set_(storage).numpy().view(np.uint16)
        part = slice(begin // 2, begin // 2 + len(data))
        self.data[part], self.known[part], self.inside[part] = data, True, True
        self.parts.append((part, data))

    def check_bounds(self, at: np.ndarray) -> None:
        """Inside of some tensor."""
        super().check_bounds(at)
        if not self.inside[at].all():
            raise FaultError(f"{self.name}: outside of all tensors")

    def copy_back(self) -> None:
        """Into the tensors."""
        for part, data in self.parts:
            data[:] = self.data[part]


@contextmanager
def emulated(capability: int) -> Iterator[Device]:
    """Run Triton's kernels compiled for such a GPU, on tensors of the CPU."""
    device, run = Device(capability), JITFunction.run

    def launched(
        self: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any
    ) -> None:
        device.launch(self, *arguments, grid=grid, warmup=warmup, **options)

    JITFunction.run = launched
    try:
        yield device
    finally:
        JITFunction.run = run
