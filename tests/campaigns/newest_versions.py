"""The tests on whatever versions are installed: which, and what failed. Started by tests/newest.sh.

    bash tests/newest.sh [--out benchmarks/newest_versions] [ARGUMENTS OF PYTEST]

Exits as pytest does.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from tttscale.bench import report

HOW = (
    "pyproject.toml gives the versions that may be, constraints.txt those that `bash tests/run.sh` pins. "
    "Here nothing is pinned: these are what `pip install` brought on that day, on this Python and "
    "machine."
)


def versions() -> dict[str, str]:
    """Of everything that tttscale asks for, the extras' too."""
    names = {re.match(r"[\w.-]+", line)[0] for line in requires("tttscale") or ()} - {"tttscale"}
    found = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def run(arguments: Sequence[str], results: Path) -> int:
    """All tests, or as pytest's arguments say."""
    processes = os.environ.get("TEST_PROCESSES", "2")
    words = ["-n", processes, "--dist", "worksteal", "-q", f"--junitxml={results}", *arguments]
    return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode


def outcomes(results: Path) -> Iterator[tuple[str, str, str]]:
    """File, outcome and name of every test."""
    for case in ET.parse(results).getroot().iter("testcase"):
        words = case.get("classname", "").split(".")
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        yield "/".join(words[:2]), kinds.pop() if kinds else "passed", case.get("name", "")


def write(out: Path, arguments: Sequence[str], found: Sequence[tuple[str, str, str]]) -> None:
    """OUT.md and OUT.json."""
    count = Counter((folder, outcome) for folder, outcome, _ in found)
    names = ("passed", "skipped", "failure", "error")
    rows: list[dict[str, Any]] = [
        {"tests": folder, **{name: count[folder, name] for name in names}}
        for folder in sorted({folder for folder, _ in count})
    ]
    failed = [f"{f}: {name} ({outcome})" for f, outcome, name in found if outcome in names[2:]]
    said = f"{len(found)} tests, {len(failed)} of them failed."
    sections = [
        ("Result", "\n\n".join([said, *failed, report.table(rows)])),
        ("Versions", report.table([{"package": n, "version": v} for n, v in versions().items()])),
        ("How", HOW),
    ]
    command = f"bash tests/newest.sh {shlex.join(arguments)}".strip()
    report.write(out, "Tests on the newest versions", sections, {"tests": rows}, command)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Tests on the versions installed here.", allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, help="report path without suffix")
    asked, arguments = parser.parse_known_args()
    print(*(f"{name}=={v}" for name, v in versions().items()), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        code = run(arguments, results)
        if asked.out and results.exists():
            write(asked.out, sys.argv[1:], list(outcomes(results)))
    sys.exit(code)


if __name__ == "__main__":
    main()
