"""Which sequence layer each block has: names, where they are found, and their options. No torch here.

`model.pattern` lists names, repeated over the model's layers. A name is one that this package brings, one
that `mixer(name)` has registered, or `module:Class` of a user's own file.
"""

import importlib
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from tttscale.model.architecture import TTTConfig

if TYPE_CHECKING:
    from tttscale.model.sequence_layer import Mixer

_OWN = {
    "ttt-linear": "tttscale.model.ttt_layer:TTTLinear",
    "ttt-mlp": "tttscale.model.ttt_layer:TTTMLP",
}
_NOT_THEIRS = f"{Path(__file__).parents[1]}/", f"{Path(importlib.__file__).parent}/", "<"
"""How names of files begin in which no layer of someone's own stands."""
_BASE = "tttscale.model.sequence_layer:Mixer"
_registered: "dict[str, type[Mixer]]" = {}
AnyMixer = TypeVar("AnyMixer", bound="type[Mixer]")


def mixer(name: str) -> Callable[[AnyMixer], AnyMixer]:
    """Register a layer under a name for `model.pattern`, as a class decorator.

    Raises:
        ValueError: another layer has this name.
    """

    def register(cls: AnyMixer) -> AnyMixer:
        """Enter the class under the name, unless another one has it."""
        known = _registered.get(name)
        same = known is not None and (known.__module__, known.__qualname__) == (
            cls.__module__,
            cls.__qualname__,
        )
        if name in _OWN or ":" in name or (known is not None and not same):
            raise ValueError(f"a sequence layer cannot be called {name!r}; choose another name")
        _registered[name] = cls
        return cls

    return register


def names_of(config: TTTConfig) -> list[str]:
    """The name of each layer's mixer, first to last."""
    pattern = _pattern(config)
    return [pattern[i % len(pattern)] for i in range(config.num_hidden_layers)]


def kinds_of(config: TTTConfig) -> list[str]:
    """The names that a model's layers have, each once; as short as the pattern, however many layers."""
    return list(dict.fromkeys(_pattern(config)[: config.num_hidden_layers]))


def _pattern(config: TTTConfig) -> tuple[str, ...]:
    return config.pattern or (f"ttt-{config.ttt_layer_type}",)


def name_of(cls: "type[Mixer]") -> str:
    """A name that `model.pattern` knows a class by; one that has none is registered as module:Class."""
    for name, known in _registered.items():
        if known is cls:
            return name
    place = f"{cls.__module__}:{cls.__qualname__}"
    for name, own in _OWN.items():
        if own == place:
            return name
    _registered[place] = cls
    return place


def mixer_class(name: str, *, may_import: bool = True) -> "type[Mixer]":
    """The class behind a name.

    Args:
        name: as in `model.pattern`.
        may_import: whether a user's module that is not loaded yet may be imported.

    Raises:
        ValueError: there is none, as the rest of a sentence about the name.
    """
    if name in _registered:
        return _registered[name]
    place = _OWN.get(name, name)
    module_name, _, class_name = place.partition(":")
    if not class_name:
        known = ", ".join([*_OWN, *_registered])
        raise ValueError(f"is none of {known}, and not module:Class of a layer of your own")
    if name not in _OWN and not may_import and module_name not in sys.modules:
        raise ValueError(f"is a layer of someone's own; import {module_name} first if you trust it")
    try:
        found = _at(module_name, class_name)
    except Exception as error:  # a file of someone's own may raise anything
        raise ValueError(
            f"cannot be imported: {fault(error)}{_sought(error, module_name)}"
        ) from None
    # Only now, since it needs torch, as whatever was imported does.
    base = _at(*_BASE.split(":"))
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError("is no subclass of tttscale.model.Mixer")
    for method in ("carry", "reset", "forward"):
        if getattr(found, method) is getattr(base, method):
            raise ValueError(f"has no {method}(), which every layer needs")
    if not issubclass(found.Options, base.Options):
        raise ValueError("has Options that are no subclass of tttscale.model.Mixer.Options")
    return found


def fault(error: Exception) -> str:
    """What code of someone's own has raised and on which line of it, for a message."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    kind = "" if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: "
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not f.filename.startswith(_NOT_THEIRS)]
    theirs = [f for f in outside if "-packages" not in f.filename] or outside
    place = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    return f"{kind}{error}{place}"


def _sought(error: Exception, module_name: str) -> str:
    """Where its file should be, if it was not found."""
    if not isinstance(error, ModuleNotFoundError) or error.name != module_name.split(".")[0]:
        return ""
    return ". Start in the folder that holds its file, or name that folder in PYTHONPATH"


def _at(module_name: str, class_name: str) -> Any:
    found = importlib.import_module(module_name)
    for attribute in class_name.split("."):
        found = getattr(found, attribute)
    return found


def options_of(config: TTTConfig, name: str, cls: "type[Mixer]") -> Any:
    """The checked options of a layer, `model.options.NAME`.

    Raises:
        ValueError: an unknown or wrong one; the message names the key.
    """
    try:
        return cls.Options(**config.options.get(name, {}))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("options", name, *problem["loc"])))
        if problem["type"] == "missing":
            raise ValueError(f"model.{key} is missing; this layer needs it") from None
        if problem["type"] == "extra_forbidden":
            known = ", ".join(cls.Options.model_fields) or "none"
            raise ValueError(
                f"model.{key} is no option of this layer; its options: {known}"
            ) from None
        message = (
            problem["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
        )
        raise ValueError(f"model.{key} = {problem['input']!r:.60}: {message}") from None


def check_pattern(config: TTTConfig, *, may_import: bool = True) -> None:
    """Check that every layer is there and takes its options.

    Raises:
        ValueError: not so; the message begins with the key.
    """
    for i, name in enumerate(config.pattern or ()):
        try:
            cls = mixer_class(name, may_import=may_import)
        except ValueError as error:
            raise ValueError(f"model.pattern[{i}] = {name!r} {error}") from None
        options_of(config, name, cls)
    if unused := config.options.keys() - set(kinds_of(config)):
        raise ValueError(
            f"model.options.{min(unused)} is for a layer that model.pattern does not name; "
            "leave it out, or name the layer there"
        )
    if not config.pattern and config.options:
        check_pattern(config.model_copy(update={"pattern": tuple(kinds_of(config))}))
    if may_import:
        alignments(config)


def alignments(config: TTTConfig) -> dict[str, int]:
    """Multiples of tokens at which chunks and documents may begin, for each kind of layer.

    Raises:
        ValueError: a layer gives none; the message begins with the key.
    """
    if not config.pattern:
        return {kinds_of(config)[0]: config.mini_batch_size}
    found = {}
    for name in kinds_of(config):
        cls = mixer_class(name)
        options = options_of(config, name, cls)
        try:
            found[name] = cls.alignment(config, options)
        except Exception as error:
            raise ValueError(
                f"model.pattern: alignment() of {name!r} failed: {fault(error)}"
            ) from None
        if type(found[name]) is not int or found[name] < 1:
            raise ValueError(
                f"model.pattern: alignment() of {name!r} gives {found[name]!r}; expected tokens, at least 1"
            )
    return found


def alignment(config: TTTConfig) -> int:
    """Multiple of tokens at which chunks and documents may begin, whatever the layer."""
    return math.lcm(*alignments(config).values())
