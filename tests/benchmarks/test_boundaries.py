"""benchmarks/ is not installed nor imported by what is; a GPU round needs torch, triton and numpy only."""

import ast
import fnmatch
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tttscale.model.architecture import TTTConfig, preset_fields, preset_names

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "benchmarks/gpu/run.sh", ROOT / "benchmarks/gpu/wheels.sh"]


def modules(*tops):
    """Dotted name -> path."""
    found = {}
    for top in tops:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(path):
    """Names of modules, and of what is taken from them, that a file imports, also within its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_it_is_not_installed():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = setup["packages"]["find"]["include"]
    folders = {name.rpartition(".")[0] for name in modules("benchmarks", "tttscale")}
    installed = [f for f in folders if any(fnmatch.fnmatch(f, pattern) for pattern in patterns)]
    assert "tttscale.bench" in installed
    assert not [f for f in installed if f.startswith("benchmarks")]
    assert set(setup) == {
        "dynamic",
        "packages",
        "package-data",
    }  # no other list of what is installed
    lines = [line.split("#")[0].split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    assert [words for words in lines if words] == [
        ["prune", "tests"],
        ["include", "constraints.txt"],
    ]


def test_nothing_that_is_installed_imports_it():
    found = modules("tttscale", "kernels")
    assert not [
        f"{path} imports {name}"
        for path in found.values()
        for name in imported(path)
        if name.split(".")[0] == "benchmarks"
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert "set -euo pipefail" in path.read_text()


BARE = """
import json, sys
for name in sys.argv[1].split():
    sys.modules[name] = None  # as if it were not installed
from benchmarks.gpu import check, machine, tune
assert machine.complaint("check") is None and machine.complaint("tune") is None
assert "pydantic" in machine.complaint("train_check")
sys.path.insert(0, machine.environment()["PYTHONPATH"].split(":")[0])  # what a worker has first
del sys.modules["pydantic"]
import pydantic
assert pydantic.__version__ == "stand-in", pydantic
from benchmarks.gpu import ceilings, errors, ranks, scan_time, step, tune_worker
from benchmarks.ops import documents_worker, pointwise_worker
from tttscale.model.architecture import TTTConfig, preset_fields, preset_names
for kind in ("linear", "mlp"):
    step.TTTForCausalLM(step.architecture(f"ttt-{kind}-1.3b", "cpu"))
models = {name: TTTConfig(**preset_fields(name)) for name in preset_names()}
print(json.dumps({name: [m.model_dump(), m.head_dim] for name, m in models.items()}))
"""


def test_a_round_needs_no_package_but_torch_triton_and_numpy():
    """All that a worker of `gpu_check` imports; models have the fields that pydantic gives them."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [line.split(">")[0].split(";")[0].strip() for line in declared]
    absent = {*names, "yaml", "pydantic_core", "annotated_types", "typing_inspection", "obstore"}
    absent -= {"torch", "triton", "numpy", "psutil", "backports.zstd"}  # torch may look for psutil
    words = [sys.executable, "-c", BARE, " ".join(sorted(absent))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    real = {name: TTTConfig(**preset_fields(name)) for name in preset_names()}
    assert found == {name: [m.model_dump(), m.head_dim] for name, m in real.items()}
