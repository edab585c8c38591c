"""The texts that users read: README, CONTRIBUTING, docs/, and the READMEs beside the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
BESIDE_CODE = [ROOT / "tttscale/data/README.md", *sorted((ROOT / "kernels").rglob("*.md"))]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS, *BESIDE_CODE]
IDS = [str(path.relative_to(ROOT)) for path in TEXTS]


def blocks(path, *languages):
    """Code blocks of these languages."""
    names = "|".join(languages)
    return re.findall(rf"^```(?:{names})\n(.*?)^```", path.read_text(), re.S | re.M)


def spans(path):
    """Code spans outside of code blocks."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
    return re.findall(r"`([^`\n]+)`", text)


def block_commands(path):
    """Lines of shell blocks."""
    for block in blocks(path, "bash", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.split("  #")[0].strip()
            if line and not line.startswith("#"):
                yield line


def commands(path):
    """Lines of shell blocks, and code spans in tables and text that begin like a command."""
    yield from block_commands(path)
    for span in spans(path):
        words = span.split()
        first = next((w for w in words if not re.fullmatch(r"[A-Z_]+=\S*", w)), "")
        if len(words) > 1 and first in ("tttscale", "bash", "sbatch", "python", "make", "mkdocs"):
            yield span
