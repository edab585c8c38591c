"""YAML text to a tree of plain values that remembers where each key was written."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tttscale.errors import ConfigError
from tttscale.scrub import shortened

KeyPath = tuple[str, ...]


class Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars: `1e-4` is a float, `off` a string, `010` is ten."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the name is PyYAML's)


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every string which `Loader` would read as something else."""


_DIGITS = list("+-.0123456789")
for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", [*"~nN", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?\d[\d_]*", _DIGITS),
    ("float", r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?", _DIGITS),
):
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"{_pattern}$"), _first
        )

Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


@dataclass
class Layer:
    """One source of keys: the values, where each key path was written, and what was wrong."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def update(self, later: "Layer") -> None:
        """Lay `later` over this one: sections merge, everything else is replaced."""
        _merge(self.tree, later.tree)
        self.places.update(later.places)
        self.problems += later.problems


def read_file(path: Path) -> Layer:
    """Read one YAML file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8 or YAML, or is not a mapping.
    """
    try:
        return read_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot read the configuration {path}: {reason}. Give the path of a YAML file."
        ) from None


def read_text(text: str, name: str) -> Layer:
    """Read YAML text; `name` stands for it in messages.

    Raises:
        ConfigError: not YAML, or not a mapping.
    """
    layer = Layer()
    value = _parse(text, name, layer)
    if value is not None and not isinstance(value, dict):
        raise ConfigError(
            f"{name}: expected a mapping such as `train: {{steps: 100}}`, found {shortened(value)}"
        )
    layer.tree = value or {}
    return layer


def read_override(text: str) -> Layer:
    """Read `train.lr=3e-4`; the value is parsed as YAML."""
    key, equals, value_text = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    place = f"override {text!r}"
    if not equals or not all(path):
        return Layer(problems=[f"{place}: expected section.key=value, such as train.lr=3e-4"])
    layer = Layer()
    try:
        tree = _parse(value_text, place, layer)
    except ConfigError as error:
        return Layer(problems=[str(error)])
    inner = [(*path, *rest) for rest in layer.places]
    outer = [path[: n + 1] for n in range(len(path))]
    for part in reversed(path):
        tree = {part: tree}
    return Layer(tree, dict.fromkeys(outer + inner, place), layer.problems)


def _parse(text: str, name: str, layer: Layer) -> Any:
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        return None if node is None else _build(loader, node, (), name, layer)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}{_where(error)}: not valid YAML: {_reason(error)}") from None


def _build(loader: Loader, node: yaml.Node, path: KeyPath, name: str, layer: Layer) -> Any:
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_build(loader, item, (*path, str(i)), name, layer) for i, item in items]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        place = f"{name}:{key_node.start_mark.line + 1}"
        here = (*path, key)
        if key in result:
            first = layer.places[here]
            layer.problems.append(
                f"{place}: {'.'.join(here)} is written twice (first at {first}); keep one of them"
            )
        layer.places[here] = place
        result[key] = _build(loader, value_node, here, name, layer)
    return result


def _merge(into: dict[str, Any], later: dict[str, Any]) -> None:
    for key, value in later.items():
        section = into.get(key)
        if not isinstance(section, dict):
            into[key] = value
        elif isinstance(value, dict):
            _merge(section, value)
        elif value is not None:  # `parallel:` with nothing below it changes nothing
            into[key] = value


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(getattr(error, "problem", None) or error).split())
