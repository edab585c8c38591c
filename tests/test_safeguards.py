"""The campaign of broken safeguards does not rot: what it breaks is there, and so are its tests."""

import ast
from pathlib import Path

import pytest

from tests.campaigns.broken_safeguards import broken
from tests.campaigns.safeguards import SAFEGUARDS, Safeguard

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda s: s.name)
def test_what_is_broken_is_there_once_and_so_are_its_tests(safeguard):
    text = (ROOT / safeguard.file).read_text()
    ast.parse(broken(text, safeguard))  # it is the safeguard that goes, not the whole file
    assert safeguard.tests
    for test in safeguard.tests:
        path, name = test.split("::")
        functions = ast.parse((ROOT / path).read_text()).body
        assert name in [f.name for f in functions if isinstance(f, ast.FunctionDef)], test


def test_each_is_named_and_there_are_enough():
    assert len({s.name for s in SAFEGUARDS}) == len(SAFEGUARDS) >= 25
    assert len({(s.file, s.old) for s in SAFEGUARDS}) == len(SAFEGUARDS)


@pytest.mark.parametrize("text", ["nothing of the kind", "if a: pass\nif a: pass\n"])
def test_what_is_not_there_once_is_an_error(text):
    with pytest.raises(ValueError, match=r"stands [02] times in file, not once"):
        broken(text, Safeguard("name", "file", "if a:", "if b:", ()))
