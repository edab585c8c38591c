"""The PTX that the emulator knows, spelled out. Anything else is an error and never a guess.

A compiler's next release may spell an instruction otherwise or ask for another rounding, another state
space, a wider scope. Whoever adds a spelling here looks first whether `execute` does just that.
"""

import re


class UnknownSpellingError(Exception):
    """PTX that the emulator would have to guess the meaning of."""


_INT, _WIDE = "[su](16|32|64)", "[su](16|32)"
_BITS = "b(16|32|64)"
_ANY = f"({_INT}|{_BITS}|f32)"
_SHARED = r"shared(::cta)?"  # a block's own; of a cluster's other blocks nothing is known here
_INSTRUCTIONS = (
    # numbers
    rf"(add|sub|neg)\.{_INT}",
    r"(add|sub|mul)(\.rn)?\.f32",
    r"neg\.f32",
    r"fma\.rn\.f32",
    rf"(mul|mad)\.lo\.{_INT}",
    rf"(mul|mad)\.wide\.{_WIDE}",
    r"(div|rem)\.[su]32",
    r"div\.(full|rn|approx)\.f32",
    rf"(min|max)\.{_INT}",
    r"(ex2|rsqrt|rcp)\.approx(\.ftz)?\.f32",
    r"rcp\.rn\.f32",
    # bits
    rf"(and|or|xor|not)\.({_BITS}|pred)",
    rf"shl\.{_BITS}",
    rf"shr\.({_INT}|{_BITS})",
    r"bfe\.[su]32",
    r"prmt\.b32",
    # choices
    rf"setp\.(eq|ne)\.({_INT}|{_BITS})",
    rf"setp\.(lt|le|gt|ge)\.{_INT}",
    r"setp\.(lo|ls|hi|hs)\.u(16|32|64)",
    r"setp\.(eq|lt|le|gt|ge|num|nan)\.f32",
    rf"selp\.{_ANY}",
    r"bra(\.uni)?",
    r"ret",
    # from one type to another
    rf"mov\.({_ANY}|pred)",
    rf"cvt\.{_INT}\.{_INT}",
    rf"cvt\.rn\.f32\.{_INT}",
    r"cvt\.f32\.bf16",
    r"cvt\.rn\.bf16\.f32",
    r"cvt\.rn\.bf16x2\.f32",
    # between lanes
    r"shfl\.sync\.(bfly|idx)\.b32",
    r"redux\.sync\.max\.s32",
    # memory
    r"ld\.param\.[bsu](32|64)",
    rf"ld\.(global|{_SHARED})(\.v[24])?\.{_ANY}",
    rf"st\.(global|{_SHARED})(\.v[24])?\.{_ANY}",
    rf"(ld|st)matrix\.sync\.aligned\.m8n8\.x[124](\.trans)?\.{_SHARED}\.b16",
    rf"cp\.async\.c[ag]\.{_SHARED}\.global",
    r"cp\.async\.(commit|wait)_group",
    r"bar\.sync",
    r"bar\.warp\.sync",
    rf"fence\.proxy\.async\.{_SHARED}",
    # tensor cores
    r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32",
    r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.bf16\.bf16",
    r"wgmma\.(fence|commit_group|wait_group)\.sync\.aligned",
)
_DIRECTIVES = (
    r"\.version \d+\.\d+",
    r"\.target sm_\d+a?",
    r"\.address_size 64",
    r"\.extern \.shared \.align 16 \.b8 global_smem\[\];",
    r"\.global \.align 1 \.b8 _\$_str\[\d+\] = \{[\d, ]+\};",  # a name that no instruction mentions
    r"\.maxnreg \d+",
    r"\.minnctapersm \d+",
    # inside of a kernel
    r"\.loc .*",
    r"\.reg \.\w+ %\w+<\d+>;",
    r'\.pragma "(nounroll|used_bytes_mask 0x[0-9a-f]+)";',
    # for debuggers
    r"\.file .*",
    r"\.section \.debug_\w+( \{ \})?",
    r"\.b(8|16|32|64) .*",
)
_OPERATION = re.compile("|".join(f"({p})" for p in _INSTRUCTIONS))
_DIRECTIVE = re.compile("|".join(_DIRECTIVES))
_NAME = re.compile(r"%\w+(\.[xyz])?|\$\w+|_|global_smem|\w+_param_\d+")


def parts_of(operation: str) -> tuple[str, ...]:
    """`ld.shared::cta.b32` -> ("ld", "shared", "b32"), the way `execute` takes it."""
    if not _OPERATION.fullmatch(operation):
        raise UnknownSpellingError(operation)
    return tuple(operation.replace("::cta", "").split("."))


def check_directive(line: str) -> None:
    """A line that begins with a dot."""
    if not _DIRECTIVE.fullmatch(" ".join(line.split())):
        raise UnknownSpellingError(line)


def name_of(operand: str) -> str:
    """A register, a label, a parameter, or the one array in shared memory."""
    if not _NAME.fullmatch(operand):
        raise UnknownSpellingError(operand)
    return operand
