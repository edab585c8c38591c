"""The house's rules: who may import whom, and what --help may load. Texts: tests/docs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tttscale.config import load_config

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"cli"},
    {"train", "evaluate", "bench", "check_mixer"},
    {"comm", "plan"},
    {"scan"},
    {"model", "data", "config"},
    {"kernels", "observe", "cluster"},
    {"tensors"},
    {"reading", "versions", "location", "packages"},
    {"errors", "files"},
    {"scrub"},
]
SIDEWAYS = {
    ("config", "model"),
    ("data", "config"),
    ("evaluate", "train"),
    ("bench", "train"),
}
"""Arrows inside a floor; none goes back, so there is no circle."""
HOMES = {  # package -> the only files or folders that may import it
    "deepspeed": ["tttscale/train/engine.py"],
    "wandb": ["tttscale/observe/"],
    "zarr": ["tttscale/data/"],
    "mpi4py": ["tttscale/comm/", "tttscale/data/"],
    "torch.distributed": ["tttscale/comm/"],
    "matplotlib": ["tttscale/observe/"],
    "tokenizers": ["tttscale/data/"],
    "safetensors": ["tttscale/tensors.py"],
    "yaml": ["tttscale/config/"],
}
FLOOR_OF = {name: i for i, floor in enumerate(FLOORS) for name in floor}


def sources():
    for top in ("tttscale", "kernels"):
        for path in sorted((ROOT / top).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if relative.parts[:2] not in (("tttscale", "kernels"), ("tttscale", "configs")):
                yield relative, ast.parse(path.read_text())


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def room(parts):
    name = parts[0] if parts[0] == "kernels" else parts[1]
    return Path(name).stem


def test_arrows_go_down():
    broken = []
    for path, tree in sources():
        here = room(path.parts)
        for name in imports(tree):
            words = name.split(".")
            if words[0] != "tttscale" or len(words) < 2 or here in ("__init__", "__main__"):
                continue
            there = words[1]
            if there not in FLOOR_OF or there == here:
                continue
            down = FLOOR_OF[there] > FLOOR_OF[here]
            if not down and (here, there) not in SIDEWAYS:
                broken.append(f"{path} imports {name}")
    assert not broken


def test_libraries_have_one_home():
    broken = []
    for path, tree in sources():
        for name in imports(tree):
            for library, homes in HOMES.items():
                inside = any(str(path).startswith(home) for home in homes)
                if (name + ".").startswith(library + ".") and not inside:
                    broken.append(f"{path} imports {name}")
            words = name.split(".")
            if path.parts[0] == "kernels" and words[0] == "tttscale" and words[1] != "kernels":
                broken.append(f"{path} imports {name}")
    assert not broken


def test_kernels_import_torch_and_triton_only():
    allowed = {"torch", "triton", "tttscale", *sys.stdlib_module_names}
    broken = [
        f"{path} imports {name}"
        for path, tree in sources()
        if path.parts[0] == "kernels"
        for name in imports(tree)
        if name.split(".")[0] not in allowed
    ]
    assert not broken


def test_no_pickle_and_no_unsafe_yaml():
    broken = []
    for path, tree in sources():
        text = (ROOT / path).read_text()
        # `yaml.load(` with a subclass of SafeLoader is what safe_load is.
        text = re.sub(r"yaml\.load\([^)]*Loader", "", text)
        if re.search(r"\b(torch\.load|yaml\.load\(|eval\(|exec\(|shell=True)", text):
            broken.append(str(path))
        if re.search(r"\byaml\.C?(Unsafe|Full)?Loader\b", text):
            broken.append(f"{path} has a loader that makes any object")
        broken += [f"{path} imports {n}" for n in imports(tree) if n.split(".")[0] == "pickle"]
    assert not broken


CALLS = {  # a call -> the only files or folders that may make it, and why there
    r"json\.loads?": [
        "tttscale/reading.py",  # what somebody else may have written
        "tttscale/comm/agreement.py",  # what our own ranks and workers say to each other
        "tttscale/train/checkpoint/checkpoints.py",
        "tttscale/train/engine.py",
        "tttscale/bench/",
        "tttscale/data/formats.py",  # lines of a source, each bounded there
    ],
    r".*\.model_validate_json": [],
    r"(safe_open|load_file|save_file|safetensors\..*)": ["tttscale/tensors.py"],
    r"(yaml|Loader)\.(safe_load|load|load_all|compose|get_single_node)": [
        "tttscale/config/source.py"
    ],
    r"np\.(load|loadtxt|fromfile|genfromtxt)": ["tttscale/data/runs.py"],
    r".*\.(write_text|write_bytes|touch)": [],
    r".*\.read_(text|bytes)": [
        "tttscale/train/memory.py",  # the system's own files
        "tttscale/train/cpu_products.py",
        "tttscale/bench/",
    ],
    r"(open|os\.open|.*\bpath\.open|Path\(.*\)\.open)": [
        "tttscale/files.py",
        "tttscale/bench/",
        "tttscale/data/",  # sources are streams, opened where they are read
        "tttscale/observe/guard.py",  # the null device
        "tttscale/observe/terminal.py",  # the terminal
    ],
}


def test_what_others_may_have_written_is_read_in_one_place():
    """And files are written in one: a path that is opened to be written may be a planted link."""
    broken = []
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            for pattern, homes in CALLS.items():
                inside = any(str(path).startswith(home) for home in homes)
                if re.fullmatch(pattern, name, re.DOTALL) and not inside:
                    broken.append(f"{path}:{node.lineno} calls {name}")
            if name.endswith("open") and "tttscale/bench/" not in str(path):
                modes = [a.value for a in node.args[-2:] if isinstance(a, ast.Constant)]
                writes = [
                    m for m in modes if isinstance(m, str) and re.fullmatch("[rwax+bt]*[wax+].*", m)
                ]
                if writes and path.name not in ("files.py", "guard.py"):
                    broken.append(f"{path}:{node.lineno} opens to write")
    assert not broken


def test_links():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    for name in ("kernels", "configs"):
        link = ROOT / "tttscale" / name
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{name}"


@pytest.mark.parametrize("statement", ["import tttscale", "import tttscale.cli, tttscale.config"])
def test_importing_loads_no_torch(statement):
    check = (
        f"{statement}; import sys; print([m for m in ('torch', 'deepspeed') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_help_loads_no_torch():
    check = (
        "import sys, tttscale.cli\n"
        "try: tttscale.cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'deepspeed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], capture_output=True, check=True)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_load(path):
    config = load_config(path)
    assert config.architecture().head_dim >= 16


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "launch").glob("*"), *(ROOT / "tests").glob("*.sh"), ROOT / ".ci/run"]),
    ids=lambda p: p.name,
)
def test_scripts_parse(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert "set -euo pipefail" in path.read_text()
