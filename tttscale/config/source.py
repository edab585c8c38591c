"""YAML text to a tree of plain values that remembers where each key was written."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tttscale.errors import ConfigError
from tttscale.reading import read_bytes, reason
from tttscale.scrub import is_secret_name, remember, shortened
from tttscale.versions import is_newer

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
    # Each character matches in one way only, so that text that is not a number fails in linear time.
    ("float", r"[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?", _DIGITS),
):
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"{_pattern}$"), _first
        )

Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: _whole(node.value))
Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in _KINDS}
_YAML_BYTES, _DEEPEST, _MOST_NODES, _MOST_DIGITS = 1 << 18, 32, 50_000, 20
"""Far more than any configuration has; PyYAML takes about a second for as much."""
WRITTEN_BY = "# written by tttscale "
"""How a configuration that we wrote begins; the version follows."""


@dataclass
class Layer:
    """One source of keys: the values, where each key path was written, and what was wrong."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    newer: dict[str, str] = field(default_factory=dict)
    """Files that a newer tttscale wrote, with its version."""

    def update(self, later: "Layer") -> None:
        """Lay `later` over this one: sections merge, everything else is replaced."""
        _merge(self.tree, later.tree)
        self.places.update(later.places)
        self.problems += later.problems
        self.newer.update(later.newer)


def read_file(path: Path) -> Layer:
    """Read one YAML file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8 or YAML, or is not a mapping.
    """
    try:
        text = read_bytes(path, _YAML_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {reason(error)}. Give the path of a YAML file, or a "
            "name that `tttscale configs` lists."
        ) from None
    layer = read_text(text, str(path))
    version = text.split("\n", 1)[0].removeprefix(WRITTEN_BY).strip()
    if text.startswith(WRITTEN_BY) and is_newer(version):
        layer.newer[str(path)] = version
    return layer


def read_text(text: str, name: str) -> Layer:
    """Read YAML text; messages call it `name`.

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
    path = _key_path(key)
    if is_secret_name(
        key
    ):  # such as logging.wandb.api_key, which does not exist, but many will try it
        remember(value_text.strip().strip("'\""))
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


def _key_path(key: str) -> KeyPath:
    """Split at dots, but none of a layer's own name: model.options.my.file:Layer.window is four keys."""
    parts = [part.strip() for part in key.split(".")]
    colon = next((i for i, part in enumerate(parts) if ":" in part), 0)
    if parts[:2] == ["model", "options"] and colon > 2:
        parts[2 : colon + 1] = [".".join(parts[2 : colon + 1])]
    return tuple(parts)


def _parse(text: str, name: str, layer: Layer) -> Any:
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        return None if node is None else _Builder(loader, name, layer).build(node, ())
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise ConfigError(f"{name}{_where(error)}: not valid YAML: {_reason(error)}") from None


class _Builder:
    """Builds plain values from nodes, and counts these, since aliases can repeat a node many times."""

    def __init__(self, loader: Loader, name: str, layer: Layer) -> None:
        self._loader, self._name, self._layer = loader, name, layer
        self._nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """Build the value of a node, and note in the layer where its keys were written."""
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise ValueError(
                f"it has more than {_MOST_NODES:,} values, counting each alias in full"
            )
        if len(path) > _DEEPEST:
            raise ValueError(f"it is nested too deeply, more than {_DEEPEST} levels")
        if node.tag not in _TAGS:
            raise ValueError(f"it has a value with the tag {node.tag!r:.60}; remove the tag")
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, str(i))) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = f"{self._name}:{key_node.start_mark.line + 1}"
            key = str(key_node.value)
            if not isinstance(key_node, yaml.ScalarNode) or not key.isprintable():
                raise ValueError(
                    f"line {key_node.start_mark.line + 1} has a key that is not plain text"
                )
            here = (*path, key)
            if key in result:
                first = self._layer.places[here]
                self._layer.problems.append(
                    f"{place}: {'.'.join(here)} is written twice (first at {first}); keep one of them"
                )
            self._layer.places[here] = place
            result[key] = self.build(value_node, here)
        return result


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(digits):,} digits")
    return int(digits)


def _merge(into: dict[str, Any], later: dict[str, Any]) -> None:
    for key, value in later.items():
        section = into.get(key)
        if not isinstance(section, dict):
            into[key] = value
        elif isinstance(value, dict):
            _merge(section, value)
        elif value is not None:  # `parallel:` without a value changes nothing
            into[key] = value


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(getattr(error, "problem", None) or error).split())
