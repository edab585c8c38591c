"""The command answers quickly because the heavy packages wait until a verb needs them."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "deepspeed", "wandb", "zarr", "matplotlib", "triton", "mpi4py")


@pytest.mark.parametrize(
    "code",
    [
        "import tttscale.cli, tttscale.config, tttscale.cluster, tttscale.observe",
        "import tttscale.cli\ntry: tttscale.cli.main(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported(code):
    check = f"{code}\nimport sys\nprint('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_python_dash_m():
    command = [sys.executable, "-m", "tttscale", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tttscale ")
