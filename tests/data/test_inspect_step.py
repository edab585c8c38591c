import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.data.conftest import build
from tests.data.windows.test_mixture import config_of
from tttscale.config import dump_config
from tttscale.data import ByteTokenizer
from tttscale.data.cli import app
from tttscale.data.inspect_report import render_step
from tttscale.data.inspect_step import inspect_step, open_run
from tttscale.data.provenance import write_provenance
from tttscale.data.windows.mixture import open_mixture
from tttscale.errors import DataError


@pytest.fixture
def run(stores, tmp_path):
    config = config_of(stores, documents="whole", skip_steps=["2-3"])
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config))
    write_provenance(folder, open_mixture(config))
    return folder


def step_of(config, step, excerpt=0, most=100):
    tokens = open_mixture(config)
    return tokens, inspect_step(config, tokens, step, excerpt_tokens=excerpt, most_documents=most)


@pytest.mark.parametrize("mode", ["ignore", "reset", "whole"])
@pytest.mark.parametrize("parts", [1, 2])
def test_what_is_shown_is_what_is_read(stores, mode, parts):
    config = config_of(stores[:parts], documents=mode, sequence_length=300)
    for step in (1, 2, 7):
        tokens, shown = step_of(config, step, excerpt=1000)
        assert (shown.data_step, len(shown.sequences)) == (step, 4)
        for sequence in shown.sequences:
            check_sequence(tokens, sequence)


def check_sequence(tokens, sequence):
    chunk = tokens.train.sequence(sequence.index).chunk(0, 300)
    component, local = tokens.locate(sequence.index)
    windows = component.train
    assert (sequence.store, sequence.window) == (component.path, windows.sequence(local).number)
    assert sequence.epoch == local // windows.count
    padded = np.zeros(300, bool) if chunk.padded is None else chunk.padded
    np.testing.assert_array_equal(
        chunk.ids[~padded], component.splits["train"].read(sequence.begin, sequence.end)
    )
    assert sequence.padding == pytest.approx(padded.mean())
    assert sum(document.tokens for document in sequence.documents) == (~padded).sum()
    for i, document in enumerate(sequence.documents):
        inside = chunk.ids[document.position : document.position + document.tokens]
        assert document.text == ByteTokenizer().decode(inside)
        assert (inside[0] == ByteTokenizer.bos_id) == (not document.goes_on)
        assert (inside[-1] == ByteTokenizer.eos_id) == (not document.continues)
        assert not document.goes_on or i == 0
        assert not document.continues or i == len(sequence.documents) - 1
        whole = not (document.goes_on or document.continues)
        assert (document.tokens == document.document_tokens) == whole
    if windows.padded_stream is not None:
        begins = [d.position for d in sequence.documents if d.position]
        assert begins == list(chunk.starts)


def test_skipped_steps_move_the_data(stores):
    _, moved = step_of(config_of(stores, skip_steps=["2-3"]), 2)
    _, plain = step_of(config_of(stores), 4)
    assert (moved.step, moved.data_step) == (2, 4)
    assert moved.sequences == plain.sequences
    assert render_step(moved).startswith("step 2 reads the data of step 4: 4 sequence(s) of 44")


def test_documents_left_out(stores):
    config = config_of(stores, sequence_length=300)
    (_, everything), (_, first) = step_of(config, 1), step_of(config, 1, most=1)
    for all_of_them, few in zip(everything.sequences, first.sequences, strict=True):
        assert few.documents == all_of_them.documents[:1]
        assert few.documents_left_out == len(all_of_them.documents) - 1
    assert "more document(s); see --documents" in render_step(first)


def test_command_on_a_run(run):
    found = CliRunner().invoke(app, ["show", str(run), "2", "--tokens", "9"])
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0].startswith("step 2 reads the data of step 4: 4 sequence(s) of 44 tokens")
    assert len([line for line in lines if line.startswith("sequence ")]) == 4
    assert any(": document" in line and ("docu" in line or "other" in line) for line in lines)
    printed = CliRunner().invoke(
        app, ["show", str(run / "config.yaml"), "2", "data.skip_steps=[]", "--json"]
    )
    shown = json.loads(printed.output)
    assert (shown["step"], shown["data_step"], shown["mode"]) == (2, 2, "whole")
    assert [sequence["index"] for sequence in shown["sequences"]] == [4, 5, 6, 7]


def test_a_run_whose_store_changed(run, tmp_path, corpus):
    (tmp_path / "a").rename(tmp_path / "moved")
    build(tmp_path / "a", corpus, holdout_fraction=0.2)
    with pytest.raises(DataError, match=r"data\.json: the run trained on .*/a with fingerprint"):
        open_run(run)
    a, b = (f"{{store: {tmp_path / name}, weight: {w}}}" for name, w in (("moved", 2), ("b", 1)))
    open_run(run, [f"data.blend=[{a}, {b}]"])


def test_what_is_no_run(tmp_path):
    with pytest.raises(DataError, match=r"not a run's folder: it has no config\.yaml"):
        open_run(tmp_path)


def test_showing_needs_no_torch(run):
    probe = (
        "import sys\nfrom tttscale.data.cli import app\n"
        f"try: app(['show', {str(run)!r}, '1', '--tokens', '0'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)
