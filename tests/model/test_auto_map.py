"""What transformers finds in a folder names a file of the folder, and that file names what tttscale has."""

import ast
from pathlib import Path

from tttscale.model.auto_map import AUTO_MAP, CODE, CODE_NAME

ROOT = Path(__file__).parents[2]


def test_names_are_those_of_the_file_and_of_the_package():
    (imported,) = (n for n in ast.walk(ast.parse(CODE)) if isinstance(n, ast.ImportFrom))
    names = {alias.name for alias in imported.names}
    assert imported.module == "tttscale.hf"
    assert {place.split(".")[1] for place in AUTO_MAP.values()} == names
    assert {f"{place.split('.')[0]}.py" for place in AUTO_MAP.values()} == {CODE_NAME}
    exported = (ROOT / "tttscale/hf/__init__.py").read_text()
    assert all(f'"{name}"' in exported for name in names)
