"""What Triton's interpreter does in vain, and what more than half of our tests of kernels would be.

It puts its own functions into triton.language anew whenever one jitted function calls another; within a
launch they are there already. And it looks whether each sum of integers overflows, for an assertion that is
made under `debug` only, which is off.
"""

import dataclasses

from triton import language
from triton.runtime import interpreter

_plain_patch, _plain_launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
_patched = set()
"""Modules, within the launch that runs now; there is one at a time."""


def _patch(function):
    known = (language, language.core)
    seen = {
        v.__name__ for v in function.__globals__.values() if any(v is module for module in known)
    }
    if seen and seen <= _patched:
        return interpreter._LangPatchScope()  # nothing to put back
    scope = _plain_patch(function)
    _patched.update(seen)
    return scope


def _launch(executor, *args, **options):
    _patched.clear()
    try:
        return _plain_launch(executor, *args, **options)
    finally:
        _patched.clear()


def install():
    """For the rest of this process."""
    interpreter._patch_lang, interpreter.GridExecutor.__call__ = _patch, _launch
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
