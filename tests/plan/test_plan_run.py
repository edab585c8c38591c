"""The command: text, JSON and a plot; and what it does not load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tttscale.config import load_config
from tttscale.plan import plan_run
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


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_without_a_number_of_gpus_it_plans_for_one_replica(path):
    config = load_config(path)
    found = json.loads(run(config, nodes=None, per_node=None, gpu="h200", costs=None, as_json=True))
    assert found["asked"]["ranks"] == config.parallel.sequence
    assert found["asked"]["replicas"] == 1
    assert found["asked"]["fits"], "what comes with tttscale fits into the GPUs that it names"


@pytest.mark.parametrize(
    ("ranks", "told", "hosts"),
    [
        (2, (None, None), (1, 2)),
        (16, (None, None), (2, 8)),
        (12, (None, None), (1, 12)),
        (2, (4, None), (4, 8)),
        (2, (None, 4), (1, 4)),
        (2, (3, 2), (3, 2)),
    ],
)
def test_hosts(ranks, told, hosts):
    config = load_config(CONFIGS / "quickstart.yaml", [f"parallel.sequence={ranks}"])
    assert plan_run._hosts(config, *told) == hosts


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
