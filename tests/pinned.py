"""Whether a package is the one that constraints.txt pins: some facts hold for one compiler only."""

from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def is_pinned(package: str) -> bool:
    """Versions without what a build adds, such as +cpu."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    (wanted,) = (line.split("==")[1] for line in lines if line.startswith(f"{package}=="))
    return version(package).split("+")[0] == wanted
