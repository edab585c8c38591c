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
    {"verbs"},
    {
        *("train", "evaluate", "generate", "convert", "bench", "check_mixer", "launch", "doctor"),
        *("profile", "hf", "watch"),
    },
    {"comm", "plan"},
    {"scan"},
    {"model", "data", "config"},
    {"kernels", "observe", "cluster", "supervise"},
    {"tensors"},
    {"reading", "writable", "versions", "location", "packages"},
    {"errors", "files"},
    {"scrub", "codes"},
]
SIDEWAYS = {
    ("config", "model"),
    ("data", "config"),
    ("plan", "comm"),
    ("observe", "supervise"),
    ("supervise", "cluster"),
    ("convert", "train"),
    ("evaluate", "train"),
    ("evaluate", "generate"),
    ("generate", "train"),
    ("bench", "train"),
    ("launch", "train"),
    ("doctor", "train"),
    ("profile", "train"),
    ("watch", "launch"),
    ("watch", "profile"),
}
"""Arrows inside a floor; none goes back, so there is no circle."""
NAMES_ONLY = {("model", "check_mixer")}
"""A name that users find in a room, and that lives above it: resolved on use (`__getattr__`), typed here."""
HOMES = {  # package -> the only files or folders that may import it
    "deepspeed": ["tttscale/train/deepspeed_import.py"],
    "wandb": ["tttscale/observe/"],
    "tensorboard": ["tttscale/observe/"],
    "torch.utils.tensorboard": ["tttscale/observe/"],
    "zarr": ["tttscale/data/"],
    "mpi4py": ["tttscale/data/workers.py", "tttscale/comm/mpi_"],
    "torch.distributed": ["tttscale/comm/"],
    "matplotlib": ["tttscale/observe/"],
    "tokenizers": ["tttscale/data/"],
    "safetensors": ["tttscale/tensors.py"],
    "yaml": ["tttscale/config/"],
    "lm_eval": ["tttscale/evaluate/lm_eval.py"],
    "transformers": ["tttscale/hf/"],
}
FLOOR_OF = {name: i for i, floor in enumerate(FLOORS) for name in floor}
DATA_FLOORS = [
    {"cli"},
    {"inspect_step"},
    {"provenance"},
    {"builder"},
    {"windows"},
    {"store"},
    {"tokenizers", "workers", "progress", "inspect_report", "ids"},
]
DATA_FLOOR_OF = {name: i for i, floor in enumerate(DATA_FLOORS) for name in floor}
"""The same for the rooms of tttscale/data."""


def sources():
    for top in ("tttscale", "kernels"):
        for path in sorted((ROOT / top).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if relative.parts[:2] not in (("tttscale", "kernels"), ("tttscale", "configs")):
                yield relative, ast.parse(path.read_text())


def imports(tree, skipped=()):
    for node in ast.walk(tree):
        if node in skipped:
            continue
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
            if not down and (here, there) not in SIDEWAYS | NAMES_ONLY:
                broken.append(f"{path} imports {name}")
    assert not broken


def test_rooms_of_data_import_downward():
    broken = []
    for path, tree in sources():
        if path.parts[:2] != ("tttscale", "data") or path.name == "__init__.py":
            continue
        here = Path(path.parts[2]).stem
        for name in imports(tree):
            words = name.split(".")
            there = words[2] if words[:2] == ["tttscale", "data"] else None
            if there not in DATA_FLOOR_OF or there == here:
                continue
            if DATA_FLOOR_OF[there] <= DATA_FLOOR_OF[here]:
                broken.append(f"{path} imports {name}")
    assert not broken


def for_types_only(tree):
    """Nodes below `if TYPE_CHECKING:`, which no run imports."""
    tests = (
        n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    )
    return {inner for node in tests for child in node.body for inner in ast.walk(child)}


def circles(root, tops):
    """Files below `root` that import each other in a circle, also by imports inside functions."""
    files = {}
    for path in sorted(p for top in tops for p in (root / top).rglob("*.py")):
        words = path.relative_to(root).with_suffix("").parts
        files[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    graph = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text())
        skipped = for_types_only(tree)
        found = set(imports(tree, skipped))
        found |= {name.rpartition(".")[0] for name in found if name not in files}
        graph[module] = sorted(found & files.keys() - {module})
    done, circles_found = set(), []

    def visit(module, way):
        if module in way:
            circles_found.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in graph[module]:
                visit(other, [*way, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return circles_found


def test_no_import_circles():
    assert circles(ROOT, ["tttscale", "tttscale/kernels", "benchmarks"]) == []


@pytest.mark.parametrize("line", ["from room.b import f", "import room.b", "from room import b"])
def test_a_circle_is_found(tmp_path, line):
    (tmp_path / "room").mkdir()
    (tmp_path / "room/a.py").write_text(f"def late():\n    {line}\n")
    (tmp_path / "room/b.py").write_text("from room.c import f\n")
    (tmp_path / "room/c.py").write_text("from room.a import late\n")
    assert circles(tmp_path, ["room"]) == ["room.a -> room.b -> room.c -> room.a"]
    types = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {line}\n"
    (tmp_path / "room/a.py").write_text(types)
    assert circles(tmp_path, ["room"]) == []


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
        "tttscale/comm/collective.py",
        "tttscale/train/engine.py",
        "tttscale/bench/",
        "tttscale/data/builder/json_lines.py",  # lines of a source, each bounded there
        "tttscale/data/builder/read_documents.py",
    ],
    r".*\.model_validate_json": [],
    r"(safe_open|load_file|save_file|safetensors\..*)": ["tttscale/tensors.py"],
    r"(yaml|Loader)\.(safe_load|load|load_all|compose|get_single_node)": [
        "tttscale/config/source.py"
    ],
    r"np\.(load|loadtxt|fromfile|genfromtxt)": ["tttscale/data/builder/tokenized.py"],
    r".*\.(write_text|write_bytes|touch)": [],
    r".*\.read_(text|bytes)": [
        "tttscale/train/memory.py",  # the system's own files
        "tttscale/train/cpu_products.py",
        "tttscale/cluster/launcher.py",
        "tttscale/bench/",
        "tttscale/profile/page/",  # its own files
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
    for name, place in {
        "kernels": "kernels",
        "configs": "configs",
        "launch": "launch/scripts",
    }.items():
        link = ROOT / "tttscale" / place
        assert link.is_symlink()
        assert (link.parent / link.readlink()).samefile(ROOT / name)
        assert not link.readlink().is_absolute()


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


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.name)
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
