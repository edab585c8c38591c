"""What messages and help tell people to use is there, from a checkout and from a wheel."""

import ast
import re
import shlex

import pytest

from tests.docs.test_commands import check_verb
from tests.test_house import sources

OF_A_CHECKOUT = r"\bbash \w+[/.]|\b(launch|docs|tests|benchmarks|kernels|examples|configs)/\w"
ALLOWED = {
    "tttscale/bench/cli.py": "what is for developers says that it needs a checkout; names of reports",
    "tttscale/data/builder/file_formats.py": "endings of files",
}


def texts():
    """Strings that may reach a user: all but docstrings, except those that --help prints."""
    for path, tree in sources():
        helps = {
            node.body[0]
            for node in ast.walk(tree)
            if path.name in ("cli.py", "verbs.py") and isinstance(node, ast.FunctionDef)
        }
        prose = {n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and n not in helps}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
                yield path.as_posix(), node


TEXTS = list(texts())


def test_only_what_is_everywhere_is_advised():
    found = [
        f"{path}:{node.lineno}: {node.value}"
        for path, node in TEXTS
        if re.search(OF_A_CHECKOUT, node.value) and path not in ALLOWED
    ]
    assert not found


@pytest.mark.parametrize(
    "text", ["run bash launch/torchrun.sh CONFIG", "see docs/launching.md", "train configs/a.yaml"]
)
def test_advice_of_a_checkout_is_found(text):
    assert re.search(OF_A_CHECKOUT, text)


COMMANDS = sorted(
    {
        span.strip()
        for path, node in TEXTS
        for span in re.findall(r"`(tttscale [^`]+)`", " ".join(node.value.split()))
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_that_are_advised_exist(line):
    check_verb(shlex.split(line)[1:], line)
