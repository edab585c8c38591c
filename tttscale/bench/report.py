"""Reports: what was measured, by which command, on which machine, with which versions and commit."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tttscale.files import write_text
from tttscale.scrub import scrubbed

PACKAGES = ("torch", "triton", "deepspeed", "numpy", "zarr")


def circumstances() -> dict[str, Any]:
    """Collect all that a figure depends on besides the code."""
    return {
        "command": shlex.join([*_program(), *(_portable(scrubbed(w)) for w in sys.argv[1:])]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def machine() -> str:
    """Name processor, cores and memory, without a host name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A markdown table; the first row's keys are the columns."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[c]) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def write(
    out: Path,
    title: str,
    sections: Sequence[tuple[str, str]],
    data: Any,
    command: str | None = None,
) -> None:
    """Write OUT.md for people and OUT.json for programs.

    Args:
        out: report path without suffix; its folder is made.
        title: of the page.
        sections: heading and text of each, in order.
        data: for OUT.json, beside the circumstances.
        command: what made the report, if it is not this process's command.
    """
    facts = circumstances()
    facts["command"] = command or facts["command"]
    write_page(out, title, facts, sections)
    text = json.dumps({"circumstances": facts, "data": data}, indent=1) + "\n"
    write_text(beside(out, ".json"), text)


def write_page(
    out: Path, title: str, facts: dict[str, Any], sections: Sequence[tuple[str, str]]
) -> None:
    """Write OUT.md alone, for `circumstances` that were found now or read from OUT.json."""
    versions = ", ".join(f"{name} {v}" for name, v in facts["versions"].items())
    head = [
        f"# {title}",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['date']}, {facts['machine']}; Python {facts['python']}, {versions}; "
        f"commit {facts['commit']}.",
    ]
    body = [line for name, text in sections for line in ("", f"## {name}", "", text)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(beside(out, ".md"), "\n".join(head + body) + "\n")


def read(out: Path) -> tuple[dict[str, Any], Any]:
    """Read OUT.json: the circumstances and the data."""
    written = json.loads(beside(out, ".json").read_text(encoding="utf-8"))
    return written["circumstances"], written["data"]


def beside(out: Path, suffix: str) -> Path:
    """Name a file of report OUT by its suffix. `ttt-1.3b` has none yet, only a dot in its name.

    In the checkout's `benchmarks/` pages lie apart from what programs read, which is in `benchmarks/data/`.
    """
    folder = out.parent
    if suffix != ".md" and folder.name == "benchmarks" and (folder / "data").is_dir():
        folder = folder / "data"
    return folder / (out.name + suffix)


def emit(row: dict[str, Any]) -> None:
    """Print a worker's row on a line of its own, at once, so that it is kept whatever happens later."""
    print(json.dumps(row), flush=True)


def row_of(line: str) -> dict[str, Any] | None:
    """Parse a row that a worker printed; None for any other line, such as a library's."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def run_rows(module: str, *arguments: str, env: dict[str, str] | None = None) -> list[Any]:
    """Run `python -m module arguments` in a fresh process and collect the rows that it prints (`emit`)."""
    (output,) = _outputs([start_worker(module, *arguments, env=env)])
    return [row for row in map(row_of, output.splitlines()) if row is not None]


def run_worker(module: str, *arguments: str, env: dict[str, str] | None = None) -> Any:
    """Run `python -m module arguments` in a fresh process; it prints one JSON object last."""
    return collect([start_worker(module, *arguments, env=env)])[0]


def start_worker(
    module: str, *arguments: str, env: dict[str, str] | None = None, stdin: int | None = None
) -> "subprocess.Popen[str]":
    """Start a worker without waiting for it; its output is read through a pipe."""
    command = [sys.executable, "-m", module, *arguments]
    environ = {**os.environ, **(env or {})}
    return subprocess.Popen(command, env=environ, stdin=stdin, stdout=subprocess.PIPE, text=True)


def collect(workers: Sequence["subprocess.Popen[str]"]) -> list[Any]:
    """Wait for workers started together; the last line of each is its result.

    Raises:
        RuntimeError: a worker failed (its own message is on stderr).
    """
    return [json.loads(output.strip().splitlines()[-1]) for output in _outputs(workers)]


def _outputs(workers: Sequence["subprocess.Popen[str]"]) -> list[str]:
    outputs = [worker.communicate()[0] for worker in workers]
    for worker in workers:
        if worker.returncode:
            raise RuntimeError(f"{worker.args} ended with {worker.returncode}")
    return outputs


def _program() -> list[str]:
    """The words that started this process: `tttscale`, or `python -m` and a module that is not installed."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else ""
    return ["python", "-m", name] if name.startswith(("benchmarks.", "tests.")) else ["tttscale"]


def _portable(word: str) -> str:
    """Shorten an absolute path to its name: where it lies on this machine is of no use to readers."""
    return Path(word).name if Path(word).is_absolute() else word


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _commit() -> str:
    """Name the code: COMMIT if it is set, else what git says, else the file COMMIT of a copy without git."""
    here = Path(__file__).parent
    if given := os.environ.get("COMMIT", "").strip():
        return given
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        file = here.parents[1] / "COMMIT"
        return (file.read_text(encoding="utf-8").strip() if file.is_file() else "") or "unknown"
    return found.stdout.strip()
