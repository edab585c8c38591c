"""What a compiled Triton kernel depends on, in one short string: whether a report speaks of today's code.

Run as `python -m tttscale.bench.fingerprint CAPABILITY`, without TRITON_INTERPRET. Prints one JSON object:
kernel -> fingerprint for every shipped configuration, by the names of `row_name`. Nothing is compiled.
"""

import ast
import hashlib
import json
import sys
from typing import Any

import triton.language as tl
from triton.compiler import ASTSource
from triton.runtime import JITFunction


def fingerprint(source: ASTSource, launch: dict[str, Any]) -> str:
    """Of a kernel's code, all that it calls, its signature, constants and launch.

    Comments, docstrings and places in files do not count, nor does the version of the compiler.
    """
    parts = _code(source.fn, {})
    text = repr((sorted(parts.items()), source.signature, source.constants, source.attrs, launch))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_name(row: dict[str, Any]) -> str:
    """Names one kernel of one configuration in a report."""
    return ":".join(str(row[key]) for key in ("inner", "dim", "K", "dtype", "kernel"))


def _code(function: JITFunction, seen: dict[str, str]) -> dict[str, str]:
    """Name -> syntax tree of a Triton function and of those it calls, and the constants they read."""
    if function.__name__ in seen:
        return seen
    tree = ast.parse(function.src)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    seen[function.__name__] = ast.dump(tree)
    for name in sorted({x.id for x in ast.walk(tree) if isinstance(x, ast.Name)}):
        value = function.__globals__.get(name)
        if isinstance(value, JITFunction):
            _code(value, seen)
        elif isinstance(value, tl.constexpr):
            seen[name] = repr(value.value)
    return seen


def main(capability: int) -> None:
    """Fingerprints of every shipped configuration on such a GPU."""
    from tttscale.bench.compiled import launches
    from tttscale.bench.kernels import DTYPES, shapes_of

    found = {}
    for kind, dim, size, dtype in shapes_of(capability, everything=True):
        recorded = launches(kind, dim, size, DTYPES[dtype], capability=capability).sources
        for kernel, (source, launch) in recorded.items():
            row = {"inner": kind, "dim": dim, "K": size, "dtype": dtype, "kernel": kernel}
            found[row_name(row)] = fingerprint(source, launch)
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
