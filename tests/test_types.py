"""The type checker is given every file of the product: of one that it does not see it never complains."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def found_by_pyright():
    """How many files `python -m pyright`, as tests/run.sh calls it, is about to check; then it is stopped."""
    command = [sys.executable, "-m", "pyright", "--verbose", "--pythonpath", sys.executable]
    started = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    said = []
    try:
        assert started.stdout is not None
        for line in started.stdout:
            if counted := re.match(r"Found (\d+) source files?", line):
                return int(counted[1])
            said.append(line)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)  # pyright and the node process that it started
        started.wait()
    pytest.skip(f"pyright could not start here: {''.join(said)[-200:]}")


def test_pyright_is_given_every_file():
    """kernels/ is checked by way of its link, and no file twice."""
    linked = ("tttscale/kernels/", "tttscale/configs/")
    files = [
        path
        for top in ("tttscale", "kernels", "benchmarks", "docs", "examples")
        for path in (ROOT / top).rglob("*.py")
        if not path.relative_to(ROOT).as_posix().startswith(linked)
    ]
    assert sum(path.is_relative_to(ROOT / "kernels") for path in files) > 30
    assert found_by_pyright() == len(files)
