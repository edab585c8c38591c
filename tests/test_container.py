"""Containerfile, as far as it can be read: no container engine is at hand where the tests run."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = re.sub(
    r"\\\n", " ", re.sub(r"^\s*#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.M)
)
LINES = [line.split(None, 1) for line in TEXT.splitlines() if line.strip()]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTRUCTIONS = {
    "ARG",
    "FROM",
    "WORKDIR",
    "COPY",
    "RUN",
    "ENV",
    "STOPSIGNAL",
    "USER",
    "ENTRYPOINT",
    "CMD",
}


def of(instruction):
    return [rest for name, rest in LINES if name == instruction]


def test_it_has_instructions_only():
    assert {name for name, _ in LINES} == INSTRUCTIONS
    assert [name for name, _ in LINES[:3]] == ["ARG", "ARG", "FROM"]


def test_what_it_copies_is_there():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in of("COPY"):
        words = shlex.split(line)
        if words[0].startswith("--from="):
            assert f"AS {words[0].removeprefix('--from=')}" in TEXT
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert source not in ignored


@pytest.mark.parametrize(
    "name", ["configs", "kernels", "launch", "tttscale", "LICENSE", "README.md"]
)
def test_it_has_all_that_the_wheel_is_made_of(name):
    assert name in " ".join(of("COPY")).split()


def test_its_python_is_one_of_ours():
    (python,) = (line.removeprefix("PYTHON=") for line in of("ARG") if line.startswith("PYTHON="))
    least, most = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert int(least) <= int(python.removeprefix("3.")) < int(most)


def test_no_registry_is_named():
    (base,) = (line.removeprefix("BASE=") for line in of("ARG") if line.startswith("BASE="))
    assert "/" not in base
    assert "http" not in TEXT
    assert of("FROM") == ["${BASE} AS wheel", "${BASE}"]


def test_versions_are_those_of_the_constraints():
    (torch,) = set(re.findall(r"torch==\S+", TEXT))
    assert torch in (ROOT / "constraints.txt").read_text().splitlines()
    assert torch in (ROOT / "launch/install.sh").read_text()
    installs = re.findall(r"pip install [^&]*", TEXT)
    assert len(installs) == 2
    assert all("-c /tmp/constraints.txt" in line for line in installs)
    (extras,) = re.findall(r"\[([\w,]+)\]\"", TEXT)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_it_runs_as_a_user_without_rights():
    names = [name for name, _ in LINES]
    assert of("USER") == ["trainer"]
    assert "RUN" not in names[names.index("USER") :]
    assert of("ENTRYPOINT") == ['["tttscale"]']
    assert of("STOPSIGNAL") == ["SIGTERM"]
