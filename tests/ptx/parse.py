"""PTX text as Triton makes it -> instructions, labels, parameters."""

import re
from dataclasses import dataclass, field

_LOC = re.compile(r"\.loc\s.*//\s*(.+)$")
_LABEL = re.compile(r"^(\$?[A-Za-z_][\w$]*):$")
_GUARD = re.compile(r"^@(!?)(%p\d+)\s+")


@dataclass(frozen=True)
class Instruction:
    """One operation; operands are names, numbers, (address, offset) pairs or tuples of these."""

    operation: str
    operands: tuple
    guard: str | None
    negated: bool
    where: str
    """The source line it comes from."""

    @property
    def parts(self):
        return self.operation.split(".")


@dataclass
class Program:
    name: str = ""
    threads: int = 0
    parameters: list[str] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text):
    """One kernel."""
    program, where, body = Program(), "", False
    for raw in text.splitlines():
        if match := _LOC.search(raw):
            where = match.group(1)
        line = raw.split("//")[0].strip()
        if match := re.search(r"\.entry\s+(\w+)", line):
            program.name = match.group(1)
        elif match := re.match(r"\.param\s.*?(\w+),?$", line):
            program.parameters.append(match.group(1))
        elif match := re.match(r"\.reqntid\s+(\d+)", line):
            program.threads = int(match.group(1))
        elif match := _LABEL.match(line):
            program.labels[match.group(1)] = len(program.instructions)
        elif line == "{":
            body = True
        elif body and line and not line.startswith((".", "}")):
            for statement in filter(None, (s.strip() for s in line.split(";"))):
                program.instructions.append(_instruction(statement, where))
    return program


def _instruction(text, where):
    guard, negated = None, False
    if match := _GUARD.match(text):
        negated, guard, text = match.group(1) == "!", match.group(2), text[match.end() :]
    operation, _, rest = text.partition(" ") if " " in text else text.partition("\t")
    return Instruction(operation.strip(), _operands(rest.strip()), guard, negated, where)


def _operands(text):
    """Split at commas outside of braces and brackets."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[") - (c in "}]")
        if c == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    parts.append(text[begin:])
    return tuple(_operand(p.strip()) for p in parts if p.strip())


def _operand(text):
    if text.startswith("{"):
        return _operands(text[1:-1])
    if text.startswith("["):
        base, _, offset = text[1:-1].replace(" ", "").partition("+")
        return ("address", base, int(offset or "0", 0))
    if text.startswith("0f"):
        return int(text[2:], 16)
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
        return int(text.removesuffix("U"), 0)
    return text
