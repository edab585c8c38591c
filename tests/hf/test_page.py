"""The program of docs/transformers.md runs as it stands, in a folder that holds an exported model."""

import pytest

pytest.importorskip("transformers")

from tests.docs.pages import ROOT, blocks
from tests.hf.helpers import byte_folder


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    byte_folder(tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    program = "\n".join(blocks(ROOT / "docs/transformers.md", "python"))
    names = {}
    exec(compile(program, "transformers.md", "exec"), names)
    assert "the cat" in capsys.readouterr().out
    assert names["out"].shape == (1, 27)
    assert names["cache"].state.positions == [1 + 27 * 50]
    assert names["loss"].requires_grad
