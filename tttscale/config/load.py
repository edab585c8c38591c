"""`load_config`: one checked `Config` from YAML files, their bases, and overrides."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from tttscale import __version__
from tttscale.config.checks import problems_of
from tttscale.config.messages import explain
from tttscale.config.schema import Config
from tttscale.config.shipped import config_file
from tttscale.config.source import WRITTEN_BY, Dumper, Layer, read_file, read_override
from tttscale.errors import ConfigError
from tttscale.location import LocationError, expand
from tttscale.scrub import shortened
from tttscale.versions import newer


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's configuration.

    A file may start from another with `base: other.yaml` (relative to the file). Overrides such as
    `train.lr=3e-4` come last. Paths such as data.store stay relative to the working directory.

    Args:
        path: a YAML file, or the name of a configuration that comes with tttscale; `base` takes both, too.
        overrides: such as `train.lr=3e-4`.

    Raises:
        ConfigError: everything that is wrong, one line per problem.
    """
    layer = _read_with_base(config_file(Path(path)), ())
    for override in overrides:
        layer.update(read_override(override))
    for name in Config.model_fields:  # an absent or empty section still has required keys
        if layer.tree.get(name) is None:
            layer.tree[name] = {}
    problems, config = list(layer.problems), None
    try:
        config = Config.model_validate(layer.tree)
    except ValidationError as error:
        problems += explain(error, layer.places)
    if config is not None:
        problems += problems_of(config)
    if problems or config is None:
        raise ConfigError(_newer_files(layer) + _report(str(path), problems))
    return config


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML text, which `load_config` reads back to an equal one."""
    tree = config.model_dump(mode="json")
    text = yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return f"{WRITTEN_BY}{__version__}\n{text}"


def _read_with_base(path: Path, children: tuple[Path, ...]) -> Layer:
    layer = read_file(path)
    base = layer.tree.pop("base", None)
    if base is None:
        return layer
    place = layer.places[("base",)]
    if not isinstance(base, str):
        raise ConfigError(f"{place}: base = {shortened(base)}: expected the path of one YAML file")
    try:
        target = path.parent / expand(base)
    except LocationError as error:
        raise ConfigError(f"{place}: base = {shortened(base)}: {error}") from None
    try:
        target = config_file(target, path)
    except ConfigError as error:
        raise ConfigError(f"{place}: base: {error}") from None
    chain = (*children, path.resolve())
    if target.resolve() in chain:
        raise ConfigError(f"{place}: base: {base} leads back to itself; remove one of the links")
    if not target.is_file():
        raise ConfigError(
            f"{place}: base: {base}: there is no file {target}. "
            "The path is relative to the file that names it."
        )
    merged = _read_with_base(target, chain)
    merged.update(layer)
    return merged


def _newer_files(layer: Layer) -> str:
    """Introduce problems with files that a newer tttscale wrote."""
    lines = (newer(name, version) for name, version in layer.newer.items())
    return "".join(f"{line}, or remove the keys that this one does not know:\n" for line in lines)


def _report(name: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} problems in the configuration {name}:", *problems])
