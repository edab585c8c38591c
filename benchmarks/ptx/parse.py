"""PTX text as Triton makes it -> instructions, labels, parameters; unknown spellings are errors."""

import re
from dataclasses import dataclass, field
from typing import Any

from benchmarks.ptx.spelling import UnknownSpellingError, check_directive, name_of, parts_of

_LOC = re.compile(r"\.loc\s.*//\s*(.+)$")
_LABEL = re.compile(r"^(\$?[A-Za-z_][\w$]*):$")
_GUARD = re.compile(r"^@(!?)(%p\d+)\s+")
_ENTRY = re.compile(r"\.visible \.entry\s+(\w+)\(")
_PARAMETER = re.compile(r"\.param\s+(?:\.[us](?:32|64)|\.u64 \.ptr \.global \.align \d+)\s+(\w+),?")
_THREADS = re.compile(r"\.reqntid\s+(\d+)(?:,\s*1)*")


@dataclass(frozen=True)
class Instruction:
    """One operation; operands are names, numbers, (address, offset) pairs or tuples of these."""

    operation: str
    operands: tuple
    guard: str | None
    negated: bool
    where: str
    """The source line it comes from."""
    parts: tuple
    """The operation's, as `spelling.parts_of` gives them."""


@dataclass
class Program:
    """One kernel."""

    name: str = ""
    threads: int = 0
    parameters: list[str] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> Program:
    """Parse the PTX of one kernel.

    Raises:
        UnknownSpellingError: something in it is not known here.
    """
    program, where = Program(), ""
    for number, raw in enumerate(text.splitlines(), 1):
        if match := _LOC.search(raw):
            where = match.group(1)
        try:
            _read(program, raw.split("//")[0].strip(), where)
        except UnknownSpellingError as error:
            raise UnknownSpellingError(
                f"{error}: not known to benchmarks/ptx (line {number}, {where})"
            ) from None
    if not (program.threads and program.instructions):
        raise UnknownSpellingError("no kernel with .reqntid in this PTX")
    return program


def _read(program: Program, line: str, where: str) -> None:
    if match := _ENTRY.fullmatch(line):
        if program.name:
            raise UnknownSpellingError(f"a second kernel {match.group(1)}")
        program.name = match.group(1)
    elif match := _PARAMETER.fullmatch(line):
        program.parameters.append(match.group(1))
    elif match := _THREADS.fullmatch(line):
        program.threads = int(match.group(1))
    elif match := _LABEL.match(line):
        program.labels[match.group(1)] = len(program.instructions)
    elif line.startswith("."):
        check_directive(line)
    elif line.strip("(){}"):  # brackets alone are a kernel's, or of a section for debuggers
        if not program.threads or not line.endswith(";"):
            raise UnknownSpellingError(line)
        for statement in filter(None, (s.strip() for s in line.split(";"))):
            program.instructions.append(_instruction(statement, where))


def _instruction(text: str, where: str) -> Instruction:
    guard, negated = None, False
    if match := _GUARD.match(text):
        negated, guard, text = match.group(1) == "!", match.group(2), text[match.end() :]
    operation, *rest = text.split(None, 1)
    operands = _operands(rest[0]) if rest else ()
    return Instruction(operation, operands, guard, negated, where, parts_of(operation))


def _operands(text: str) -> tuple[Any, ...]:
    """Split at commas outside of braces and brackets."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[") - (c in "}]")
        if c == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    parts.append(text[begin:])
    return tuple(_operand(p.strip()) for p in parts if p.strip())


def _operand(text: str) -> Any:
    if text.startswith("{"):
        return _operands(text[1:-1])
    if text.startswith("["):
        base, _, offset = text[1:-1].replace(" ", "").partition("+")
        return ("address", name_of(base), int(offset or "0", 0))
    if re.fullmatch(r"0f[0-9A-Fa-f]{8}", text):
        return int(text[2:], 16)
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
        return int(text.removesuffix("U"), 0)
    return name_of(text)
