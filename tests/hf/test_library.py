"""Without transformers, or with one that is too old, the import says what to install."""

import subprocess
import sys

import pytest

OLD = """\
import sys, types
old = sys.modules["transformers"] = types.ModuleType("transformers")
old.__version__, old.PreTrainedModel = "4.46.3", object
"""
IMPORT = """
try:
    import tttscale.hf
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (
            "import sys\nsys.modules['transformers'] = None\n",
            "tttscale.hf needs transformers. Run `pip install 'tttscale[hf]'`, or in a checkout",
        ),
        (OLD, "tttscale.hf needs transformers 4.57 or newer; this is 4.46.3. Run `pip install"),
    ],
)
def test_what_is_missing_is_said(before, words):
    command = [sys.executable, "-c", before + IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"ConfigError {words}"), done.stdout


def test_which_columns_are_new():
    pytest.importorskip("transformers")
    from tttscale.hf import library

    for new, begin in ((2, 7), (9, 0), (12, 0), (0, 9)):
        said = {"cache_position": [0] * new, "next_sequence_length": new}
        assert library.first_column(said, 9, 4) == begin
    assert library.first_column({}, 9, 4) == (4 if library.IS_4 else 0)
