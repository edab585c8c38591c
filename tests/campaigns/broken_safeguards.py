"""Safeguards broken one at a time in a copy of the tree: does a test notice each?

    python -m tests.campaigns.broken_safeguards --out benchmarks/broken_safeguards
    python -m tests.campaigns.broken_safeguards --only "unknown keys are refused"
    python -m tests.campaigns.broken_safeguards --list

Only the tests named in `safeguards` are run: unbroken, where all of them have to pass, and then broken. Exits
with 1 if they passed all the same, or if they could not be run. About half an hour on two cores.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from tests.campaigns.safeguards import SAFEGUARDS, Safeguard
from tttscale.bench import report

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 900.0
_LEFT_OUT = shutil.ignore_patterns(
    *(
        ".git",
        ".venv*",
        "__pycache__",
        "*.egg-info",
        "runs",
        "stores",
        "wandb",
        "*.tmp-*",
        ".*_cache",
    )
)
_PASSED, _FAILED = 0, 1  # pytest's exit codes; others say that it could not run them
HOW = (
    "Each safeguard is broken by one replacement of text in a copy of the tree, and the tests named for "
    "it are run there. *noticed by*: the first of them that failed. All of them passed with nothing "
    "broken."
)


class Result(NamedTuple):
    safeguard: Safeguard
    noticed: bool
    what: str
    """The test that failed; or why none did."""
    seconds: float


def broken(text: str, safeguard: Safeguard) -> str:
    """The file without its safeguard.

    Raises:
        ValueError: what is to be replaced is not there exactly once.
    """
    count = text.count(safeguard.old)
    if count != 1:
        raise ValueError(
            f"{safeguard.name}: {safeguard.old.strip()!r} stands {count} times in {safeguard.file}, not once"
        )
    return text.replace(safeguard.old, safeguard.new)


def copy_of_tree(folder: Path) -> Path:
    """All that tests need, but for what they make."""
    return Path(shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=_LEFT_OUT))


def tested(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code, and the first test that failed or its last words."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",  # a broken file may be as old and as long as the one before
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=short"]
    try:
        done = subprocess.run(
            [*command, *tests],
            cwd=tree,
            env=environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"not done after {LIMIT_SECONDS:.0f} s"
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.M)
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return done.returncode, (failed or last or ["no word"])[0]


def examine(tree: Path, safeguard: Safeguard) -> Result:
    """Break it, look who notices, and put it back."""
    path, began = tree / safeguard.file, time.monotonic()
    whole = path.read_text(encoding="utf-8")
    path.write_text(broken(whole, safeguard), encoding="utf-8")
    try:
        code, what = tested(tree, safeguard.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    what = "nobody: the tests pass without it" if code == _PASSED else what
    return Result(safeguard, code == _FAILED, what, time.monotonic() - began)


def campaign(chosen: Sequence[Safeguard], processes: int) -> list[Result]:
    """All of them, some side by side, each of those in a copy of its own."""
    with tempfile.TemporaryDirectory() as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(processes):
            (Path(folder) / str(number)).mkdir()
            trees.put(copy_of_tree(Path(folder) / str(number)))

        def one(safeguard: Safeguard) -> Result:
            tree = trees.get()
            try:
                result = examine(tree, safeguard)
            finally:
                trees.put(tree)
            sign = "ok" if result.noticed else "NOT NOTICED"
            print(f"{sign}  {safeguard.name}: {result.what} ({result.seconds:.0f} s)", flush=True)
            return result

        with ThreadPoolExecutor(processes) as pool:
            return list(pool.map(one, chosen))


def unbroken(chosen: Sequence[Safeguard]) -> None:
    """A test that fails anyway would notice everything.

    Raises:
        SystemExit: there is one.
    """
    tests = list(dict.fromkeys(test for safeguard in chosen for test in safeguard.tests))
    with tempfile.TemporaryDirectory() as folder:
        code, what = tested(copy_of_tree(Path(folder)), tests)
    if code != _PASSED:
        raise SystemExit(f"before anything was broken, the tests do not pass: {what}")
    print(f"{len(tests)} tests pass with nothing broken", flush=True)


def write(out: Path, results: Sequence[Result]) -> None:
    """OUT.md and OUT.json."""
    rows: list[dict[str, Any]] = [
        {
            "safeguard": r.safeguard.name,
            "broken in": r.safeguard.file,
            "noticed by": r.what.removeprefix("tests/") if r.noticed else f"**{r.what}**",
        }
        for r in results
    ]
    missed = sum(not r.noticed for r in results)
    said = f"{len(results)} safeguards broken, {len(results) - missed} noticed, {missed} not."
    data = [
        {**row, "old": r.safeguard.old, "new": r.safeguard.new}
        for row, r in zip(rows, results, strict=True)
    ]
    sections = [("Result", f"{said}\n\n{report.table(rows)}"), ("How", HOW)]
    command = f"python -m tests.campaigns.broken_safeguards {shlex.join(sys.argv[1:])}"
    report.write(out, "Broken safeguards", sections, data, command)


def main() -> None:
    parser = argparse.ArgumentParser(description="Does a test notice each broken safeguard?")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--list", action="store_true", help="name them all and end")
    parser.add_argument("--processes", type=int, default=2, help="side by side")
    parser.add_argument("--out", type=Path, help="report path without suffix")
    asked = parser.parse_args()
    known = {safeguard.name: safeguard for safeguard in SAFEGUARDS}
    if asked.list:
        print(*known, sep="\n")
        return
    if unknown := [name for name in asked.only if name not in known]:
        raise SystemExit(f"no such safeguard: {', '.join(unknown)}; --list names them")
    chosen = [known[name] for name in asked.only] or list(SAFEGUARDS)
    unbroken(chosen)
    results = campaign(chosen, max(1, asked.processes))
    missed = [result.safeguard.name for result in results if not result.noticed]
    print(f"{len(results)} safeguards broken, {len(missed)} not noticed", *missed, sep="\n  ")
    if asked.out:
        write(asked.out, results)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
