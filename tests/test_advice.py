"""What messages and help tell people to use is there, from a checkout and from a wheel."""

import ast
import re
import shlex

import pytest

from tests.docs.test_commands import check_verb
from tests.test_house import sources

OF_A_CHECKOUT = (
    r"\bbash |\b(launch|docs|tests|benchmarks|kernels|examples)/\w|configs/\w|\w\.(sh|sbatch)\b"
)
ALLOWED = {
    "tttscale/bench/cli.py": "what is for developers says that it needs a checkout; names of reports",
    "tttscale/data/builder/file_formats.py": "endings of files",
}


def texts():
    """Strings that may reach a user: all but docstrings, except those of commands, which --help prints."""
    for path, tree in sources():
        if path.parts[0] == "kernels":
            continue
        prose = set()
        for node in ast.walk(tree):
            for field in ("body", "orelse", "finalbody"):
                for line in (
                    getattr(node, field, None) or ()
                    if not isinstance(node, ast.Lambda | ast.IfExp)
                    else ()
                ):
                    is_text = isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
                    if is_text and not is_command(node):
                        prose.add(line.value)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
                yield path.as_posix(), node


def is_command(node):
    return isinstance(node, ast.FunctionDef) and any(
        ".command" in ast.unparse(each) or ".callback" in ast.unparse(each)
        for each in node.decorator_list
    )


TEXTS = list(texts())


def test_only_what_is_everywhere_is_advised():
    found = [
        f"{path}:{node.lineno}: {node.value}"
        for path, node in TEXTS
        if re.search(OF_A_CHECKOUT, node.value) and path not in ALLOWED
    ]
    assert not found


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
