"""Runs one block of threads, instruction by instruction, all threads in lockstep."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.ptx import tensor_core as tc
from benchmarks.ptx.memory import Clock, FaultError, Space
from benchmarks.ptx.parse import Instruction, Program

Mask = np.ndarray | None
"""Which threads take part, [threads] bools; None for all."""
Operand = Any
"""A name, a number, an address and its offset, or a tuple of these."""

TYPES = {
    "u16": np.uint16, "b16": np.uint16, "s16": np.int16,
    "u32": np.uint32, "b32": np.uint32, "s32": np.int32, "f32": np.float32,
    "u64": np.uint64, "b64": np.uint64, "s64": np.int64,
}  # fmt: skip
BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
SIMPLE = {
    "add": np.add, "sub": np.subtract, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "min": np.minimum, "max": np.maximum, "neg": np.negative, "rem": np.fmod,
}  # fmt: skip
COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


def flushed(x: np.ndarray) -> np.ndarray:
    """Numbers below the normal ones are 0 with their sign."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def approximate_quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide as a GPU does, which loses the reciprocal of divisors above 2^126 and gives 0."""
    return np.where((np.abs(b) > 2.0**126) & np.isfinite(b), a * np.float32(0), a / b)


class Block:
    """Registers and control flow of a block; memory is the launch's."""

    copies_are_fenced = False
    """Whether tensor cores may read what cp.async brought without a fence. By the PTX manual they may not;
    CUTLASS's loops do (sm90_mma_multistage_gmma_ss_warpspecialized.hpp), and so does code of Triton 3.6."""

    def __init__(
        self,
        program: Program,
        memory: Space,
        shared: Space,
        clock: Clock,
        arguments: Sequence[int],
        place: tuple[int, ...],
        grid: tuple[int, ...],
    ) -> None:
        self.program, self.memory, self.shared, self.clock = program, memory, shared, clock
        self.count = program.threads
        self.arguments = arguments
        thread = np.arange(self.count, dtype=np.uint32)
        block = int(np.ravel_multi_index(place[::-1], grid[::-1]))
        self.warps = (thread // tc.LANES).astype(np.int32) + block * (self.count // tc.LANES)
        self.registers = {"%tid.x": thread}
        for axis, at, size in zip("xyz", place, grid, strict=True):
            self.registers[f"%ctaid.{axis}"] = np.full(self.count, at, np.uint32)
            self.registers[f"%nctaid.{axis}"] = np.full(self.count, size, np.uint32)
        self.copies, self.groups = [], []
        self.using, self.products = [], []
        self.in_flight = set()

    def run(self) -> None:
        """Run from the first instruction to `ret`."""
        at, code, labels = 0, self.program.instructions, self.program.labels
        while True:
            instruction = code[at]
            try:
                kind = instruction.parts[0]
                if kind == "ret" and self._taken(instruction):
                    return self._finish()
                if kind == "bra" and self._taken(instruction):
                    at = labels[instruction.operands[0]]
                    continue
                if kind not in ("ret", "bra"):
                    self._step(kind, instruction)
            except FaultError as fault:
                what = f"{self.program.name}: {instruction.operation} at {instruction.where}"
                raise FaultError(f"{fault}; {what}") from None
            at += 1

    def _finish(self) -> None:
        if self.copies or self.groups:
            self._wait_for_copies(0)

    def _taken(self, instruction: Instruction) -> bool:
        mask = self._mask(instruction)
        if mask is None or mask.all():
            return True
        if mask.any():
            raise FaultError("threads of a block part ways")
        return False

    def _mask(self, instruction: Instruction) -> Mask:
        if instruction.guard is None:
            return None
        mask = self.registers[instruction.guard]
        return ~mask if instruction.negated else mask

    def _step(self, kind: str, instruction: Instruction) -> None:
        mask = self._mask(instruction)
        if kind in SIMPLE:
            return self._simple(instruction, mask, SIMPLE[kind])
        return getattr(self, f"_{kind}")(instruction, mask)

    # ---- operands --------------------------------------------------------------------------------

    def get(self, operand: Operand, kind: str) -> np.ndarray:
        """Read an operand as an array [threads] of the type."""
        wanted = TYPES[kind]
        if isinstance(operand, int):
            size = np.dtype(wanted).itemsize
            bits = np.array(operand & ((1 << 8 * size) - 1), BITS[size])
            return np.broadcast_to(bits.view(wanted), self.count)
        if operand == "global_smem":
            return np.zeros(self.count, wanted)
        if operand in self.in_flight:
            raise FaultError(f"{operand} is used while a tensor core may write it")
        value = self.registers[operand]
        if value.dtype.itemsize != np.dtype(wanted).itemsize:
            value = value.astype(BITS[np.dtype(wanted).itemsize])
        return value.view(wanted)

    def put(self, name: str, value: np.ndarray, mask: Mask = None) -> None:
        """Store a result's bits."""
        if name == "_":
            return
        if value.dtype != bool:
            value = np.ascontiguousarray(value).view(BITS[value.dtype.itemsize])
        if mask is not None and name in self.registers:
            value = np.where(mask, value, self.registers[name])
        self.registers[name] = value

    def predicate(self, operand: Operand) -> np.ndarray:
        """Read an operand as an array [threads] of bools."""
        if isinstance(operand, int):
            return np.full(self.count, operand != 0)
        return self.registers[operand]

    def address(self, operand: Operand) -> np.ndarray:
        """Compute the byte addresses [threads] of a memory operand."""
        _, base, offset = operand
        if base == "global_smem":
            return np.full(self.count, offset, np.int64)
        return self.registers[base].astype(np.int64) + offset

    # ---- arithmetic ------------------------------------------------------------------------------

    def _mov(self, i: Instruction, mask: Mask) -> None:
        kind, (target, source) = i.parts[1], i.operands
        if kind == "pred":
            return self.put(target, self.predicate(source), mask)
        if isinstance(target, tuple):
            word = self.get(source, "b64" if kind == "b64" else "b32")
            half = {"b64": 32, "b32": 16}[kind]
            narrow = BITS[half // 8]
            self.put(target[0], (word & ((1 << half) - 1)).astype(narrow), mask)
            return self.put(target[1], (word >> half).astype(narrow), mask)
        if isinstance(source, tuple):
            half, wide = {"b64": (32, np.uint64), "b32": (16, np.uint32)}[kind]
            low, high = (self.get(s, f"b{half}").astype(wide) for s in source)
            return self.put(target, low | high << half, mask)
        return self.put(target, self.get(source, kind), mask)

    def _simple(self, i: Instruction, mask: Mask, function: Callable[..., np.ndarray]) -> None:
        target, *sources = i.operands
        if i.parts[-1] == "pred":
            return self.put(target, function(*map(self.predicate, sources)), mask)
        kind = i.parts[-1]
        with np.errstate(over="ignore", invalid="ignore"):
            value = function(*(self.get(s, kind) for s in sources))
        return self.put(target, value.astype(TYPES[kind], copy=False), mask)

    def _div(self, i: Instruction, mask: Mask) -> None:
        if i.parts[-1] == "f32":
            function = approximate_quotient if "approx" in i.parts else np.divide
            return self._simple(i, mask, function)
        return self._simple(i, mask, lambda a, b: np.trunc(a / b))

    def _mul(self, i: Instruction, mask: Mask) -> None:
        self._product(i, mask, None)

    def _mad(self, i: Instruction, mask: Mask) -> None:
        self._product(i, mask, i.operands[3])

    def _product(self, i: Instruction, mask: Mask, addend: Operand) -> None:
        target, a, b = i.operands[:3]
        kind = i.parts[-1]
        if "wide" in i.parts:
            wide = {"s32": "s64", "u32": "u64", "u16": "u32", "s16": "s32"}[kind]
            a, b = (self.get(s, kind).astype(TYPES[wide]) for s in (a, b))
            kind = wide
        else:
            a, b = self.get(a, kind), self.get(b, kind)
        with np.errstate(over="ignore", invalid="ignore"):
            value = a * b if addend is None else a * b + self.get(addend, kind)
        self.put(target, value, mask)

    def _fma(self, i: Instruction, mask: Mask) -> None:
        target, *sources = i.operands
        a, b, c = (self.get(s, "f32").astype(np.float64) for s in sources)
        with np.errstate(over="ignore", invalid="ignore"):
            self.put(target, (a * b + c).astype(np.float32), mask)

    def _shl(self, i: Instruction, mask: Mask) -> None:
        self._shift(i, mask, np.left_shift)

    def _shr(self, i: Instruction, mask: Mask) -> None:
        self._shift(i, mask, np.right_shift)

    def _shift(self, i: Instruction, mask: Mask, function: Callable[..., np.ndarray]) -> None:
        target, value, places = i.operands
        kind, places = i.parts[-1], self.get(places, "u32")
        width = 8 * np.dtype(TYPES[kind]).itemsize
        value = self.get(value, kind)
        shifted = function(value, np.minimum(places, width - 1).astype(value.dtype))
        gone = (value >> (width - 1)) if kind.startswith("s") else np.zeros_like(value)
        self.put(target, np.where(places < width, shifted, gone).astype(value.dtype), mask)

    def _bfe(self, i: Instruction, mask: Mask) -> None:
        target, value, begin, length = i.operands
        assert isinstance(begin, int)
        assert isinstance(length, int)
        assert begin + length <= 32
        bits = self.get(value, "u32") >> begin & ((1 << length) - 1)
        if i.parts[-1] == "s32":
            bits = (bits ^ (1 << (length - 1))).astype(np.int32) - (1 << (length - 1))
        self.put(target, bits.astype(TYPES[i.parts[-1]]), mask)

    def _prmt(self, i: Instruction, mask: Mask) -> None:
        target, a, b, selector = i.operands
        a, b, selector = (self.get(s, "b32").astype(np.uint64) for s in (a, b, selector))
        both, out = a | b << 32, np.zeros(self.count, np.uint64)
        for n in range(4):
            chosen = selector >> (4 * n) & 15
            byte = both >> (8 * (chosen & 7)) & 0xFF
            byte = np.where(chosen & 8, np.where(byte & 0x80, 0xFF, 0), byte).astype(np.uint64)
            out |= byte << (8 * n)
        self.put(target, out.astype(np.uint32), mask)

    def _setp(self, i: Instruction, mask: Mask) -> None:
        compare, kind = i.parts[1:]
        target, a, b = i.operands
        self.put(target, COMPARE[compare](self.get(a, kind), self.get(b, kind)), mask)

    def _selp(self, i: Instruction, mask: Mask) -> None:
        target, a, b, chosen = i.operands
        kind = i.parts[-1]
        value = np.where(self.predicate(chosen), self.get(a, kind), self.get(b, kind))
        self.put(target, value, mask)

    def _cvt(self, i: Instruction, mask: Mask) -> None:
        target, *sources = i.operands
        to, of = i.parts[-2:]
        if to == "bf16x2":
            high, low = (tc.to_bf16(self.get(s, "f32")).astype(np.uint32) for s in sources)
            return self.put(target, low | high << 16, mask)
        if to == "bf16":
            return self.put(target, tc.to_bf16(self.get(sources[0], "f32")), mask)
        if of == "bf16":
            return self.put(target, tc.from_bf16(self.get(sources[0], "b16")), mask)
        return self.put(target, self.get(sources[0], of).astype(TYPES[to]), mask)

    def _approximate(self, i: Instruction, mask: Mask, function: Callable[..., np.ndarray]) -> None:
        target, source = i.operands
        rounded = flushed if "ftz" in i.parts else lambda x: x
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value = function(rounded(self.get(source, "f32")).astype(np.float64))
            self.put(target, rounded(value.astype(np.float32)), mask)

    def _ex2(self, i: Instruction, mask: Mask) -> None:
        self._approximate(i, mask, np.exp2)

    def _rsqrt(self, i: Instruction, mask: Mask) -> None:
        self._approximate(i, mask, lambda x: 1 / np.sqrt(x))

    def _rcp(self, i: Instruction, mask: Mask) -> None:
        self._approximate(i, mask, np.reciprocal)

    # ---- between lanes ---------------------------------------------------------------------------

    def _shfl(self, i: Instruction, mask: Mask) -> None:
        target, source, lane, highest, members = i.operands
        assert (highest, members) == (31, -1), "a part of a warp"
        value = self.get(source, "b32").reshape(-1, tc.LANES)
        if i.parts[2] == "bfly":
            at = np.broadcast_to(tc.LANE ^ lane, value.shape)
        else:
            at = (self.get(lane, "u32") & 31).astype(np.int64).reshape(value.shape)
        self.put(target, np.take_along_axis(value, at, 1).reshape(-1), mask)

    def _redux(self, i: Instruction, mask: Mask) -> None:
        target, source, members = i.operands
        assert (self.get(members, "s32") == -1).all(), "a part of a warp"
        value = self.get(source, "s32").reshape(-1, tc.LANES)
        highest = np.broadcast_to(value.max(1, keepdims=True), value.shape)
        self.put(target, highest.reshape(-1), mask)

    # ---- memory ----------------------------------------------------------------------------------

    def _ld(self, i: Instruction, mask: Mask) -> None:
        if i.parts[1] == "param":
            return self._parameter(i, mask)
        targets, source = i.operands
        targets = targets if isinstance(targets, tuple) else (targets,)
        kind, space = i.parts[-1], self._space(i)
        width = np.dtype(TYPES[kind]).itemsize
        active = self._active(mask)
        at = space.places(self.address(source)[active], width * len(targets))
        found = space.read(at, self.warps[active])
        words = np.ascontiguousarray(found).view(BITS[width])
        for n, target in enumerate(targets):
            value = np.zeros(self.count, BITS[width])
            value[active] = words[:, n]
            self.put(target, value, mask)
        return None

    def _st(self, i: Instruction, mask: Mask) -> None:
        target, sources = i.operands
        sources = sources if isinstance(sources, tuple) else (sources,)
        kind, space = i.parts[-1], self._space(i)
        active = self._active(mask)
        words = np.stack([self.get(s, kind)[active] for s in sources], -1)
        at = space.places(self.address(target)[active], words.dtype.itemsize * len(sources))
        values = np.ascontiguousarray(words).view(np.uint16).reshape(at.shape)
        space.write(at, self.warps[active], values)

    def _space(self, i: Instruction) -> Space:
        return {"shared": self.shared, "global": self.memory}[i.parts[1]]

    def _active(self, mask: Mask) -> np.ndarray:
        return np.arange(self.count) if mask is None else np.flatnonzero(mask)

    def _parameter(self, i: Instruction, mask: Mask) -> None:
        target, (_, name, offset) = i.operands
        assert offset == 0
        value, kind = self.arguments[self.program.parameters.index(name)], i.parts[-1]
        narrow, size = TYPES[kind], 8 if target.startswith("%rd") else 4
        number = np.array(value & ((1 << 8 * np.dtype(narrow).itemsize) - 1), np.uint64)
        number = number.astype(narrow)  # a signed one is widened by its sign
        self.put(target, np.broadcast_to(number.astype(BITS[size]), self.count), mask)

    def _ldmatrix(self, i: Instruction, mask: Mask) -> None:
        assert mask is None
        targets, source = i.operands
        count, transposed = int(i.parts[4][1:]), "trans" in i.parts
        rows = tc.matrix_rows(self.address(source), count)
        at = tc.matrix_places(rows)
        self.shared.check_bounds(at)
        warps = np.repeat(self.warps[:: tc.LANES], 8 * count)
        found = self.shared.read(at, warps).reshape(-1, count, 8, 8)
        for target, value in zip(targets, tc.to_lanes(found, transposed), strict=True):
            self.put(target, value)

    def _stmatrix(self, i: Instruction, mask: Mask) -> None:
        assert mask is None
        target, sources = i.operands
        count, transposed = int(i.parts[4][1:]), "trans" in i.parts
        at = tc.matrix_places(tc.matrix_rows(self.address(target), count))
        self.shared.check_bounds(at)
        values = tc.from_lanes([self.get(s, "b32") for s in sources], transposed)
        warps = np.repeat(self.warps[:: tc.LANES], 8 * count)
        self.shared.write(at, warps, values.reshape(at.shape))

    def _cp(self, i: Instruction, mask: Mask) -> None:
        assert mask is None or i.parts[2] in ("ca", "cg")
        if i.parts[2] == "commit_group":
            self.groups.append(self.copies)
            self.copies = []
        elif i.parts[2] == "wait_group":
            self._wait_for_copies(i.operands[0])
        else:
            self._begin_copy(i, mask)

    def _begin_copy(self, i: Instruction, mask: Mask) -> None:
        target, source, size, *taken = i.operands
        active = self._active(mask)
        to = self.shared.places(self.address(target)[active], size)
        lengths = self.get(taken[0], "u32")[active] if taken else np.full(len(active), size)
        values = np.zeros(to.shape, np.uint16)
        full = lengths == size
        assert (full | (lengths == 0)).all()
        at = self.memory.places(self.address(source)[active][full], size)
        values[full] = self.memory.read(at, self.warps[active][full])
        # It may land at once or as late as the wait: no other access may touch the place from here on.
        self.shared.write(to, self.warps[active], self.shared.data[to] ^ 1)
        self.shared.landing[to] += 1
        self.copies.append((to, self.warps[active], values))

    def _wait_for_copies(self, still_under_way: int) -> None:
        done = self.groups[: len(self.groups) - still_under_way]
        self.groups = self.groups[len(done) :]
        for to, warps, values in (copy for group in done for copy in group):
            self.shared.landing[to] -= 1
            self.shared.write(to, warps, values, fenced=self.copies_are_fenced)

    def _bar(self, i: Instruction, mask: Mask) -> None:
        assert mask is None
        if i.parts[1] == "warp":  # lanes of a warp are not told apart here
            assert i.operands == (-1,), i
            return
        assert i.operands == (0,), i
        self.clock.barrier()

    def _fence(self, i: Instruction, mask: Mask) -> None:
        assert mask is None
        self.shared.fenced[:] = True

    # ---- tensor cores ----------------------------------------------------------------------------

    def _mma(self, i: Instruction, mask: Mask) -> None:
        assert mask is None
        targets, a, b, c = i.operands
        a, b, c = ([self.get(s, "b32") for s in part] for part in (a, b, c))
        value = tc.product(tc.fragment_a(a), tc.fragment_b(b), tc.accumulators(c))
        for target, register in zip(targets, tc.registers_of(value), strict=True):
            self.put(target, register)

    def _wgmma(self, i: Instruction, mask: Mask) -> None:
        assert mask is None
        if i.parts[1] == "mma_async":
            self._wide_product(i)
        elif i.parts[1] == "commit_group":
            self.products.append(self.using)
            self.using = []
        elif i.parts[1] == "wait_group":
            done = self.products[: len(self.products) - i.operands[0]]
            self.products = self.products[len(done) :]
            for targets, places in (product for group in done for product in group):
                self.in_flight.difference_update(targets)
                for at in places:
                    self.shared.in_use[at] -= 1
        # A fence orders registers against tensor cores; in lockstep they are in order.

    def _wide_product(self, i: Instruction) -> None:
        targets, a, b, scale, *signs = i.operands
        places = []
        self.in_flight.difference_update(targets)  # one after the other is allowed
        (columns,) = map(int, re.findall(r"n(\d+)k16", i.operation))
        assert signs[:2] == [1, 1], "a negated operand"
        transposed_b = bool(signs[-1])
        adds = self.predicate(scale) if isinstance(scale, str) else np.full(self.count, scale != 0)
        if adds.any():
            assert adds.all()
            out = tc.accumulators([self.get(t, "b32") for t in targets])
        else:  # what they hold does not count, and may be unset yet
            out = np.zeros((self.count // tc.LANES, 16, columns), np.float32)
        groups = self.count // (4 * tc.LANES)
        if isinstance(a, tuple):
            left = tc.fragment_a([self.get(s, "b32") for s in a]).reshape(groups, 64, 16)
        else:
            left = self._described(a, 64, bool(signs[2]), places)
        right = self._described(b, columns, transposed_b, places).swapaxes(-1, -2)
        value = tc.product(left, right, out.reshape(groups, 64, columns))
        registers = tc.registers_of(value.reshape(-1, 16, columns))
        for target, register in zip(targets, registers, strict=True):
            self.put(target, register)
        self.in_flight.update(targets)
        self.using.append((targets, places))

    def _described(
        self, operand: Operand, outer: int, transposed: bool, places: list[np.ndarray]
    ) -> np.ndarray:
        """An operand in shared memory, for each group of four warps: [groups, outer, 16] fp32."""
        found = []
        descriptors = self.get(operand, "b64").reshape(-1, 4 * tc.LANES)
        for group, descriptor in enumerate(descriptors):
            assert (descriptor == descriptor[0]).all()
            at = tc.described_places(int(descriptor[0]), outer, transposed)
            self.shared.check_bounds(at)
            if not self.shared.fenced[at].all():
                raise FaultError("shared: a tensor core reads what threads wrote without a fence")
            warps = np.full(outer, self.warps[group * 4 * tc.LANES])
            self._read_by_group(at, warps, group)
            self.shared.in_use[at] += 1  # its places are all different
            places.append(at)
            found.append(tc.from_bf16(self.shared.data[at]))
        return np.stack(found)

    def _read_by_group(self, at: np.ndarray, warps: np.ndarray, group: int) -> None:
        """Four warps read together; what one of them has written the others may not read yet."""
        for w in range(4):
            self.shared.read(at, warps + w)
