"""Configurations that come with tttscale, by name: `tttscale train quickstart`."""

import re
import stat
from difflib import get_close_matches
from pathlib import Path

from tttscale.config.numbers import UNITS
from tttscale.errors import ConfigError
from tttscale.reading import read_bytes, reason

FOLDER = Path(__file__).parents[1] / "configs"
SUFFIXES = (".yaml", ".yml")
_SIZES = {"m": 10**6, "b": 10**9, "Ki": UNITS["Ki"], "Mi": UNITS["Mi"]}
_MOST_BYTES = 1 << 18


def shipped() -> dict[str, Path]:
    """Find what comes with tttscale.

    Returns:
        Name -> file; by kind of model, then from small to large.
    """
    found = {path.stem: path for path in FOLDER.rglob("*.yaml")}
    return {name: found[name] for name in sorted(found, key=_order)}


def about(path: Path) -> str:
    """Say what a configuration is, in a line: the first comment of its file."""
    return read_shipped(path).split("\n", 1)[0].lstrip("# ").rstrip()


def read_shipped(path: Path) -> str:
    """Return the text of a shipped file.

    Raises:
        ConfigError: the installation is damaged.
    """
    try:
        return read_bytes(path, _MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}, which comes with tttscale: {reason(error)}. Install tttscale again."
        ) from None


def shipped_file(name: str) -> Path:
    """Return the file of a name.

    Raises:
        ConfigError: no configuration of that name comes with tttscale; the message has those like it.
    """
    files = shipped()
    if name not in files:
        raise ConfigError(f"{name!r}: {_unknown(name)}")
    return files[name]


def is_config(word: str) -> bool:
    """Whether a word of a command line is a configuration: a YAML file, or the name of a shipped one."""
    return (word.endswith(SUFFIXES) and stat.S_ISREG(_mode(Path(word)))) or word in shipped()


def config_file(path: Path, child: Path | None = None) -> Path:
    """Find the file that a CONFIG of the command line, or `base` in a file, means.

    A word without folder and suffix is the name of a shipped configuration, unless a file of exactly that
    name is there.

    Args:
        path: what was given, or for `base` where it would be beside the file that has it.
        child: the file that has this `base`.

    Raises:
        ConfigError: there is no such file and no such name, or a name could also mean NAME.yaml.
    """
    folder = Path() if child is None else child.parent
    mode = _mode(path)
    if stat.S_ISREG(mode) or path.parent != folder or path.suffix in SUFFIXES:
        name = path.name.removesuffix(path.suffix) if path.suffix in SUFFIXES else path.name
        if not mode and name in shipped():
            raise ConfigError(
                f"cannot read the configuration {path}: there is no such file. One of that name comes with "
                f"tttscale: write its name alone, {name}."
            )
        return path
    if path.name not in shipped():
        if mode:
            return path
        raise ConfigError(
            f"cannot read the configuration {path}: there is no such file, and {_unknown(path.name)}"
        )
    found = shipped_file(path.name)
    for suffix in SUFFIXES:
        own = path.with_name(path.name + suffix)
        if own != child and stat.S_ISREG(_mode(own)) and read_shipped(found) != _text(own):
            raise ConfigError(
                f"{path.name} is the name of a configuration that comes with tttscale, and there is a file "
                f"{own}, which differs from it. Write {own} for the file, or {found} for what comes with "
                "tttscale."
            )
    return found


def _mode(path: Path) -> int:
    """What kind of file it is; 0 if there is none."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _text(path: Path) -> str:
    try:
        return read_bytes(path, _MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _unknown(name: str) -> str:
    names = list(shipped())
    near = get_close_matches(name, names, n=4, cutoff=0.6)
    like = f" (like it: {', '.join(near)})" if near else ""
    return (
        f"no configuration of that name comes with tttscale{like}. `tttscale configs` lists them."
    )


def _order(name: str) -> tuple[str, list[float]]:
    sizes = re.findall(r"-([\d.]+)(m|b|Ki|Mi)\b", name)
    return re.split(r"-\d", name)[0], [float(number) * _SIZES[unit] for number, unit in sizes]
