"""Hash all that a compiled Triton kernel depends on, to see whether a report describes today's code.

Run as `python -m benchmarks.static.fingerprint CAPABILITY ...`, without TRITON_INTERPRET. Prints one JSON
object for each: the fingerprint of every kernel of every shipped configuration, by the names of `row_name`.
Nothing is compiled.
"""

import hashlib
import io
import json
import sys
import tokenize
from functools import cache
from typing import Any

import triton.language as tl
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from benchmarks.static.configurations import DTYPES, shapes_of
from benchmarks.static.recorder import launches

_LAYOUT = {
    tokenize.NEWLINE: "<line>",
    tokenize.INDENT: "<indent>",
    tokenize.DEDENT: "<dedent>",
}
_IGNORED = (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER)


def fingerprint(source: ASTSource, launch: dict[str, Any]) -> str:
    """Hash a kernel's code with all that it calls, its signature, constants and launch.

    Comments, docstrings and places in files do not count, nor does the version of the compiler.
    """
    parts = _code(source.fn, {})
    text = repr((sorted(parts.items()), source.signature, source.constants, source.attrs, launch))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_name(row: dict[str, Any]) -> str:
    """Names one kernel of one configuration in a report."""
    return ":".join(str(row[key]) for key in ("inner", "dim", "K", "dtype", "kernel"))


def _code(function: JITFunction, seen: dict[str, list[str]]) -> dict[str, list[str]]:
    """Name -> words of a Triton function and of those it calls, and the constants they read."""
    words, name = _words(function.src), function.fn.__qualname__
    if name in seen:
        assert seen[name] == words, f"{name}: two functions of one name"
        return seen
    seen[name] = words
    for used in sorted(set(words)):
        value = function.fn.__globals__.get(used)
        if isinstance(value, JITFunction):
            _code(value, seen)
        elif isinstance(value, tl.constexpr):
            seen[used] = [repr(value.value)]
    return seen


@cache
def _words(source: str) -> list[str]:
    """Split a source into tokens without comments, docstrings and line breaks that do not count."""
    words: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        begins = not words or words[-1] in _LAYOUT.values()
        if begins and token.type in (tokenize.STRING, tokenize.NEWLINE):
            continue  # a docstring and its end
        if token.type not in _IGNORED:
            words.append(_LAYOUT.get(token.type, token.string))
    return words


def main(capability: int) -> None:
    """Print the fingerprints of every shipped configuration on such a GPU."""
    found = {}
    for kind, dim, size, dtype in shapes_of(capability, everything=True):
        recorded = launches(kind, dim, size, DTYPES[dtype], capability=capability).sources
        for kernel, (source, launch) in recorded.items():
            row = {"inner": kind, "dim": dim, "K": size, "dtype": dtype, "kernel": kernel}
            found[row_name(row)] = fingerprint(source, launch)
    print(json.dumps(found))


if __name__ == "__main__":
    for word in sys.argv[1:]:
        main(int(word))
