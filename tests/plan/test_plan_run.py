"""The command: text, JSON and a plot; and what it does not load."""

import json
import subprocess
import sys
from pathlib import Path

from tttscale.config import load_config
from tttscale.plan.plan_run import run

CONFIGS = Path(__file__).parents[2] / "configs"
BIG = CONFIGS / "ttt-linear-1.3b-1Mi.yaml"


def test_the_command_draws_and_prints(tmp_path):
    config = load_config(CONFIGS / "quickstart.yaml", ["data.sequence_length=16Ki"])
    options = {"nodes": 1, "per_node": 2, "gpu": "cpu", "costs": None}
    text = run(config, **options, plot=tmp_path / "plan.png")
    assert text.endswith(f"Plot: {tmp_path / 'plan.png'}")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(run(config, **options, as_json=True))["run"] == "quickstart"


def test_it_is_quick():
    """What makes a start slow is not loaded; the search itself takes a second."""
    check = (
        "import sys, tttscale.cli\n"
        f"try: tttscale.cli.main(['plan', {str(BIG)!r}, '--nodes', '4'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "slow = {'deepspeed', 'sympy', 'torch._dynamo', 'wandb', 'matplotlib', 'zarr'}\n"
        "print(sorted(slow & sys.modules.keys()), file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert found.stderr.strip() == "[]"
    assert "It fits" in found.stdout
