"""What a shell completes: configurations and keys. See `tttscale --show-completion`."""

from pathlib import Path

from tttscale.config.schema import known_keys
from tttscale.config.shipped import SUFFIXES, shipped


def complete_config(incomplete: str) -> list[str]:
    """Complete a CONFIG: names of shipped configurations, and YAML files and folders that are there."""
    names = [name for name in shipped() if name.startswith(incomplete)]
    folder, _, begin = incomplete.rpartition("/")
    where = Path(f"{folder}/" if "/" in incomplete else ".").expanduser()
    try:
        found = sorted(where.iterdir())
    except OSError:
        return names
    shown = f"{folder}/" if "/" in incomplete else ""
    for path in found:
        if path.name.startswith(begin or "") and (begin[:1] == "." or path.name[:1] != "."):
            if path.suffix in SUFFIXES:
                names.append(f"{shown}{path.name}")
            elif path.is_dir():
                names.append(f"{shown}{path.name}/")
    return names


def complete_name(incomplete: str) -> list[str]:
    """Complete the name of a shipped configuration."""
    return [name for name in shipped() if name.startswith(incomplete)]


def complete_override(incomplete: str) -> list[str]:
    """Complete a KEY=VALUE as far as its `=`."""
    keys = {key for key in known_keys() if key[:2] != ("data", "blend") or len(key) == 2}
    sections = {key[:-1] for key in keys}
    words = sorted(f"{'.'.join(key)}=" for key in keys - sections)
    return [word for word in words if word.startswith(incomplete)]


def complete_words(incomplete: str) -> list[str]:
    """Complete a CONFIG or a KEY=VALUE, where a command takes both as they come."""
    return [*complete_config(incomplete), *(complete_override(incomplete) if incomplete else ())]
