"""What README and docs name exists: files, links, keys, variables, exit codes; README stays short."""

import ast
import importlib
import re
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest
import yaml

import tttscale
from tests.docs.pages import DOCS, IDS, ROOT, TEXTS, blocks, spans
from tests.docs.test_commands import is_key
from tttscale import errors
from tttscale.codes import CODES
from tttscale.config import flat_keys
from tttscale.config.schema import Config

README = ROOT / "README.md"
TOPS = "tttscale|kernels|tests|launch|benchmarks|configs|docs|examples"
WRITTEN = r"benchmarks/gpu_\w+"
"""What a command makes, and what is not there before."""


def each_text(test):
    return pytest.mark.parametrize("path", TEXTS, ids=IDS)(test)


def test_readme_is_short():
    assert len(README.read_text().split()) <= 900


@each_text
def test_paths_exist(path):
    for span in spans(path):
        name = span.split("#")[0].rstrip("/")
        if re.fullmatch(rf"({TOPS})/[\w./*-]+", name) and not re.fullmatch(WRITTEN, name):
            assert list(ROOT.glob(name)), f"{span} does not exist"


SOURCES = [p.as_posix() for top in TOPS.split("|") for p in (ROOT / top).rglob("*") if p.suffix]
THEIRS = {"my_layers.py"}
"""A file that a page tells its reader to write."""
OPTIONAL = {"transformers.md": "transformers"}
"""A package that a page is about, and that need not be installed."""


@each_text
def test_files_named_without_a_folder_exist(path):
    for span in spans(path):
        if re.fullmatch(r"[\w*./-]+\.(py|sh|sbatch)", span) and span not in THEIRS:
            assert any(fnmatch(source, f"*/{span.removeprefix('../')}") for source in SOURCES), (
                f"no file {span}"
            )


@each_text
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        address, _, anchor = target.partition("#")
        if ":" in address:
            continue
        there = path.parent / address if address else path
        assert there.exists(), f"{target} leads nowhere"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{target} names no heading"


def anchors(path):
    """Headings as GitHub and Python-Markdown both name them, where they are plain words."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    if path.name == "configuration.md":
        heads += Config.model_fields  # sections that are put in when the site is built
    return {re.sub(r"[^\w\s-]", "", head.lower()).strip().replace(" ", "-") for head in heads}


ENDINGS = (".md", ".py", ".json", ".yaml", ".safetensors")


@each_text
def test_keys_exist(path):
    sections = "|".join(Config.model_fields)
    for span in spans(path):
        name = re.split(r"[=:]", span)[0].strip()
        if re.fullmatch(rf"({sections})(\.[a-z_]+)+", name) and not name.endswith(ENDINGS):
            assert is_key(name) or resolve(f"tttscale.{name}"), f"no key {span}"
        elif re.fullmatch(r"tttscale(\.\w+)+", span):
            resolve(span)


def resolve(name):
    """Import the longest prefix that is a module, and look the rest up."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:end]))
        except ModuleNotFoundError:
            continue
        for word in words[end:]:
            found = getattr(found, word)
        return found
    raise AssertionError(name)


@each_text
def test_python_runs(path, tmp_path, monkeypatch):
    """Blocks of README and of the Python page run; of the others, what they import is there."""
    if path.name in OPTIONAL:
        pytest.importorskip(OPTIONAL[path.name])
    monkeypatch.chdir(tmp_path)
    for block in blocks(path, "python"):
        tree = ast.parse(block)
        if path.name not in ("README.md", "python.md") or path.parent.name == "data":
            tree.body = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        exec(compile(tree, str(path), "exec"), {})


def test_the_layer_of_the_docs_keeps_its_word(tmp_path, monkeypatch):
    """The page's layer is saved as it says, and the page's check is run."""
    layer, check = blocks(ROOT / "docs/your_layer.md", "python")
    (tmp_path / "my_layers.py").write_text(layer)
    monkeypatch.syspath_prepend(tmp_path)
    said = []
    program = "from my_layers import LinearAttention\n" + check
    exec(compile(program, "your_layer.md", "exec"), {"print": said.append})
    assert said[0].gradient_error < 1e-12
    assert said[0].parts == {"sums": ["[1, 2, 12, 12]"]}


def test_readme_has_a_short_program():
    (program,) = blocks(README, "python")
    assert len([line for line in program.splitlines() if line]) <= 10


@each_text
def test_yaml_is_of_the_schema(path):
    for block in blocks(path, "yaml"):
        for key, _ in flat_keys(yaml.safe_load(block)):
            assert key == "base" or is_key(re.sub(r"\.\d+", "", key)), key


def test_variables_exist():
    """Every variable of launching.md is read by tttscale, or by a library that it names."""
    by_libraries = {"OMP_NUM_THREADS", "CXX", "WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_TAGS"}
    table = (ROOT / "docs/launching.md").read_text().split("## Environment")[1]
    names = set(re.findall(r"`([A-Z][A-Z_]{2,})`", table)) - by_libraries
    sources = [*(ROOT / "tttscale").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    assert {"TTTSCALE_CPU_PRODUCTS", "MASTER_ADDR", "WANDB_MODE"} <= names
    assert [name for name in names if name.lstrip("$") not in text] == []
    read = set(re.findall(r"TTTSCALE_[A-Z_]+", text))
    assert read <= names, "a variable of ours is not documented"


def test_exit_codes():
    """Every error has a code of the table, and every code that a page names is one of it."""
    numbers = {code.number for code in CODES}
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    assert {k.exit_code for k in kinds if issubclass(k, errors.TTTScaleError)} <= numbers
    page = (ROOT / "docs/long_runs.md").read_text()
    rows = [
        f"| {code.number} | {code.name} | {code.meaning} | {'yes' if code.retry else 'no'} |"
        for code in CODES
    ]
    table = page.split("## Exit codes")[1].split("##")[0]
    assert [row for row in table.splitlines() if row.startswith("| ")][1:] == rows
    faults = page.split("## Faults")[1].split("## Exit codes")[0]
    cells = [row.split("|")[3] for row in faults.splitlines() if row.startswith("| ")][1:]
    named = {int(number) for cell in cells for number in re.findall(r"\d+", cell)}
    assert named <= numbers
    assert named >= numbers - {0, 1, 2}  # what a person mistypes is no fault of a run


def test_metrics_keys():
    """Every key that the module names is in the table of operations.md, and no other."""
    from tttscale.observe import metrics

    table = (ROOT / "docs/operations.md").read_text().split("Keys of `metrics.jsonl`")[1]
    rows = re.findall(r"^\| (`.*?) \|", table.split("```")[0], re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    for name in named:
        assert re.search(rf"\b{name}\b", metrics.__doc__), name
    assert (
        set(re.findall(r"\b\w+_(?:seconds|fraction|bytes|norm|loss)\b", metrics.__doc__)) <= named
    )


WORDS = """
token window sequence mini-batch chunk carry boundary sweep shard rank replica
state grad port task transport
"""


@pytest.mark.parametrize("word", WORDS.split())
def test_glossary(word):
    assert re.search(rf"^\*\*{word}\*\*$", (ROOT / "docs/glossary.md").read_text(), re.M)


def test_people_find_it_under_the_fields_names():
    for path in (README, ROOT / "docs/index.md", ROOT / "tttscale/config/schema.py"):
        assert "sequence parallel (context parallel)" in path.read_text(), path


def test_a_carrys_way_is_in_the_tour():
    """A reader who asks how a carry reaches the next rank finds four files, with what is named in them."""
    section = (
        (ROOT / "docs/tour.md").read_text().split("## How does a carry reach the next rank?")[1]
    )
    rows = re.findall(r"^\| \d \| (.*)$", section, re.M)
    assert len(rows) == 4
    for row in rows:
        names = re.findall(r"`([^`]+)`", row)
        (file,) = [name for name in names if "/" in name]
        text = (ROOT / file).read_text()
        for name in set(names) - {file}:
            for word in name.split("."):
                assert re.search(rf"\b{word}\b", text), f"{file} has no {word}"
    for verb in ("send_state", "recv_state", "send_grad", "recv_grad"):
        assert verb in section
        assert verb in (ROOT / "tttscale/scan/ports.py").read_text()


def test_every_file_of_the_scan_is_in_the_tour():
    text = (ROOT / "docs/tour.md").read_text()
    for path in (ROOT / "tttscale/scan").glob("[a-z]*.py"):
        assert f"`tttscale/scan/{path.name}`" in text


def test_citation_and_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"version: {tttscale.__version__}" in text
    assert "license: Apache-2.0" in text


def test_types_are_shipped():
    assert (ROOT / "tttscale/py.typed").is_file()
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("target", ["check", "test", "docs", "bench"])
def test_make_knows(target):
    shown = subprocess.run(
        ["make", "-n", target], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "launch/install.sh" in shown.stdout or "tests/run.sh" in shown.stdout


def test_all_pages_are_reached():
    """Every page is in the menu."""
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [path.name for path in DOCS if f" {path.name}" not in menu] == []


def test_the_way_from_token_range_to_gradient_is_an_hours_reading():
    files = ("layout", "schedule", "carry", "ports", "step_plan", "chunk_runner", "sweep")
    lines = [
        line
        for name in files
        for line in (ROOT / f"tttscale/scan/{name}.py").read_text().splitlines()
    ]
    assert len(lines) < 740


def test_every_extra_is_on_the_page_of_installing():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    table = (ROOT / "docs/installing.md").read_text().split("## Extras")[1].split("##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == extras.keys()
