"""A static prediction of a serial kernel's cycles per step, from its compiled code alone.

One warp in order: every instruction waits for its stall count and for the scoreboards that its control bits
name; a scoreboard is released after a fixed latency of the kind of instruction that set it. Other warps,
caches and the tensor cores' queue are not modelled. It ranks kernels; it does not replace a measurement
(our earlier prototypes, not published, give +-40 %).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_LATENCY = {  # cycles until the result of an instruction with a scoreboard is there; sm_90, published studies
    "LDS": 30, "LDSM": 33, "SHFL": 24, "MUFU": 22, "LDG": 30, "LDGSTS": 30, "LDL": 40, "LDC": 30,
    "HMMA": 33, "STS": 20, "STSM": 20, "STG": 20, "STL": 20, "S2R": 25, "S2UR": 25, "R2UR": 15,
}  # fmt: skip
_OTHER_LATENCY = 25
_BARRIER = 25
_SCOREBOARDS = 6
_NO_SCOREBOARD = 7
_ROUNDS = 4
_LINE = re.compile(r"\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);\s*/\* 0x[0-9a-f]{16} \*/")
_CODE = re.compile(r"/\* 0x([0-9a-f]{16}) \*/")


@dataclass(frozen=True)
class Instruction:
    """One line of machine code with its control bits."""

    address: int
    text: str
    stall: int
    sets: int
    reads: int
    waits: int

    @property
    def operation(self) -> str:
        """Such as HGMMA.64x64x16.F32.BF16."""
        return re.sub(r"^@!?U?P[0-9T]+\s+", "", self.text).split()[0]

    @property
    def kind(self) -> str:
        """The operation without its modifiers."""
        return self.operation.split(".")[0]


def parse(code: str) -> list[Instruction]:
    """The instructions of `cuobjdump -sass`; control bits stand in the second word, from bit 41."""
    lines, found = code.splitlines(), []
    for line, following in pairwise(lines):
        if (match := _LINE.match(line)) and (second := _CODE.search(following)):
            bits = int(second.group(1), 16) >> 41
            found.append(
                Instruction(
                    address=int(match.group(1), 16),
                    text=match.group(2).strip(),
                    stall=bits & 15,
                    sets=bits >> 5 & 7,
                    reads=bits >> 8 & 7,
                    waits=bits >> 11 & 63,
                )
            )
    return found


def loop_of(code: list[Instruction]) -> tuple[int, int] | None:
    """First and last index of the backward branch's body with the most tensor-core work, the outermost."""
    index = {instruction.address: i for i, instruction in enumerate(code)}
    best, most = None, 0
    for i, instruction in enumerate(code):
        target = _target(instruction)
        begin = index.get(target) if target is not None else None
        if begin is None or begin >= i:
            continue
        work = sum(x.kind in ("HGMMA", "HMMA") for x in code[begin : i + 1])
        if work and work >= most:
            best, most = (begin, i), work
    return best


def cycles_per_step(
    code: str, exposed_loads: bool = False, block: int = 1, tiles: int = 1, steps: int = 1
) -> float | None:
    """Predicted cycles of one mini-batch in the main loop.

    Args:
        code: the output of `cuobjdump -sass`.
        exposed_loads: count loads from memory in full (650 cycles) instead of as prefetched.
        block: every how many turns the conditional parts of the loop are entered.
        tiles: how many turns the loops inside it take.
        steps: how many mini-batches one turn takes.

    Returns:
        None if there is no loop with products.
    """
    instructions = parse(code)
    loop = loop_of(instructions)
    if loop is None:
        return None
    body = instructions[loop[0] : loop[1] + 1]
    entered, passed = (
        _cycles(_repeated(part, tiles), exposed_loads)
        for part in (_rare(body), _unconditional(body))
    )
    return (entered / block + passed * (1 - 1 / block)) / steps


def in_loops(code: str, kinds: tuple[str, ...]) -> int:
    """How many instructions of these kinds stand in any loop."""
    return sum(x.kind in kinds for x in _looped(parse(code)))


def issued(code: str, turns: int | Sequence[int] = 1) -> int:
    """How many instructions a warp issues if every branch is entered; `turns` as `cycles_in_all` takes it."""
    return len(_written_out(code, turns))


def cycles_in_all(code: str, turns: int | Sequence[int] = 1, exposed_loads: bool = False) -> float:
    """Predicted cycles from a program's first instruction to its last.

    Args:
        code: the output of `cuobjdump -sass`.
        turns: of each loop, or of each outermost one in the order of the code. What is between a loop and
            one inside it counts like that one. Where there are fewer, those of fewest turns were written out
            by the compiler.
        exposed_loads: as in `cycles_per_step`.

    Raises:
        ValueError: there are more outermost loops than turns.
    """
    return _cycles(_written_out(code, turns), exposed_loads)


def _written_out(code: str, turns: int | Sequence[int]) -> list[Instruction]:
    """List all instructions in the order of the code, loops one turn after the other."""
    instructions = [x for x in parse(code) if x.kind != "NOP"]
    loops = _outermost(instructions)
    turns = [turns] * len(loops) if isinstance(turns, int) else list(turns)
    while len(turns) > len(loops):
        turns.remove(min(turns))
    out, at = [], 0
    for (begin, end), count in zip(loops, turns, strict=True):
        out += instructions[at:begin] + instructions[begin:end] * count
        at = end
    return out + instructions[at:]


def _looped(instructions: list[Instruction]) -> list[Instruction]:
    """Those that stand in any loop."""
    return [x for begin, end in _outermost(instructions) for x in instructions[begin:end]]


def _outermost(instructions: list[Instruction]) -> list[tuple[int, int]]:
    """Find the first index of each loop that no other contains, and the one after its last."""
    index = {x.address: i for i, x in enumerate(instructions)}
    loops: list[tuple[int, int]] = []
    for i, x in enumerate(instructions):
        begin = index.get(target) if (target := _target(x)) is not None else None
        if begin is not None and begin < i:
            while loops and loops[-1][1] > begin:
                begin = min(begin, loops.pop()[0])
            loops.append((begin, i + 1))
    return loops


def _target(x: Instruction) -> int | None:
    """Find the index that a branch goes to."""
    found = re.search(r"0x([0-9a-f]+)", x.text) if x.kind == "BRA" else None
    return int(found.group(1), 16) if found else None


def _unconditional(body: list[Instruction]) -> list[Instruction]:
    """The body without what is entered now and then: all of an if, or the longer of its two parts."""
    return _without(body, lambda first, second: first if len(first) > len(second) else second)


def _rare(body: list[Instruction]) -> list[Instruction]:
    """The body as it is now and then: without the shorter part of an if that has two."""
    return _without(
        body, lambda first, second: second if len(first) > len(second) else first, whole=True
    )


def _without(
    body: list[Instruction], choose: Callable[..., list[Instruction]], whole: bool = False
) -> list[Instruction]:
    """The body without the part chosen of each forward branch's two; with `whole`, only where there are two.

    A conditional branch passes over the first part; if that ends with a branch forward, what this one passes
    over is the second.
    """
    index, dropped, at = {x.address: i for i, x in enumerate(body)}, set(), 0
    while at < len(body):
        x, target = body[at], _target(body[at])
        end = index.get(target, -1) if target is not None and x.text.startswith("@") else -1
        if end <= at:
            at += 1
            continue
        first, second = body[at + 1 : end], []
        over = _target(first[-1]) if first else None
        if over is not None and not first[-1].text.startswith("@") and index.get(over, -1) > end:
            second = body[end : index[over]]
        if second or not whole:
            dropped.update(y.address for y in choose(first, second))
        at = end + len(second)
    return [x for x in body if x.address not in dropped]


def _repeated(body: list[Instruction], turns: int) -> list[Instruction]:
    """The body with each loop inside it written out."""
    out: list[Instruction] = []
    for x in body[:-1]:
        out.append(x)
        target = _target(x)
        if target is not None and body[0].address <= target < x.address:
            inside = [y for y in body if target <= y.address <= x.address]
            out += inside * (turns - 1)
    return out + body[-1:]


def _cycles(body: list[Instruction], exposed_loads: bool) -> float:
    ready, now, starts = [0.0] * _SCOREBOARDS, 0.0, []
    products_done = tensor_free = 0.0
    for _ in range(_ROUNDS):
        starts.append(now)
        for x in body:
            for board in range(_SCOREBOARDS):
                if x.waits >> board & 1:
                    now = max(now, ready[board])
            if x.kind == "BAR":
                now += _BARRIER
            if x.kind == "WARPGROUP" and "DEPBAR" in x.operation:
                now = max(now, products_done)
            if x.kind == "HGMMA":
                width = re.search(r"64x(\d+)x16", x.operation)
                columns = int(width.group(1)) if width else 64
                issued = max(now, tensor_free)
                tensor_free = issued + max(columns / 2, 8)
                products_done = max(products_done, issued + 32 + columns / 2)
            latency = _LATENCY.get(x.kind, _OTHER_LATENCY)
            if x.kind == "LDG" and exposed_loads:
                latency = 650
            if x.sets != _NO_SCOREBOARD:
                ready[x.sets] = max(ready[x.sets], now + latency)
            if x.reads != _NO_SCOREBOARD:
                ready[x.reads] = max(ready[x.reads], now + 12)
            now += max(x.stall, 1)
    return (now - starts[1]) / (_ROUNDS - 1)
