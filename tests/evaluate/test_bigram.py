"""The bigram baseline on text whose answer is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml

from tests.train.small import small_config
from tttscale.config import load_config
from tttscale.data import ArraySplit, BuildOptions, build_store
from tttscale.data.provenance import write_provenance
from tttscale.data.windows.mixture import open_mixture
from tttscale.errors import DataError
from tttscale.evaluate.bigram import bigram_table, compare


def test_table_is_the_smoothed_conditional():
    table = np.exp(bigram_table(ArraySplit([np.array([0, 1, 0, 1, 0, 2])]), 3))
    assert table.sum(axis=1) == pytest.approx(np.ones(3))
    assert table[0, 1] == pytest.approx((2 + 0.1) / (3 + 0.3))
    assert table[2] == pytest.approx(np.full(3, 1 / 3))


def test_a_table_of_large_vocabulary_is_refused():
    with pytest.raises(DataError, match="5000"):
        bigram_table(ArraySplit([np.array([0, 1])]), 5000)


@pytest.fixture
def run(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(4):
        (text / f"{i}.txt").write_text("ab" * (200 + i))
    build_store(tmp_path / "store", [str(text)], BuildOptions(holdout_fraction=0.3))
    tree = small_config().model_dump(mode="json")
    tree["data"] |= {"store": str(tmp_path / "store"), "sequence_length": 44}
    tree["model"] = {"vocab_size": 259, "mini_batch_size": 4}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    write_provenance(folder, open_mixture(load_config(folder / "config.yaml")))
    return folder


def metrics(run, *losses):
    records = [{"step": i + 1, "heldout_loss": loss} for i, loss in enumerate(losses)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_comparison_on_the_same_windows(run):
    metrics(run, 5.0, 0.001, 0.0005)
    found = compare(run)
    assert found.run_bits == pytest.approx(0.0005 / math.log(2))
    assert found.bigram_bits < 0.2  # "a" is always followed by "b"
    assert found.crossed_at_step == 2
    assert found.tokens == 44
    assert found.render().endswith("first came below the bigram at step 2")
    assert "bits per byte" in found.render()
    of_ids = replace(found, tokens_per_byte=None).render()
    assert f"this run       {found.run_bits:.3f} bits per token" in of_ids


def test_a_run_that_fell_back(run):
    metrics(run, 5.0, 0.001, 4.0)
    assert compare(run).render().endswith("at step 2, and is above it now")


def test_a_run_that_is_not_there_yet(run):
    metrics(run, 5.0, 4.0)
    assert compare(run).crossed_at_step is None
    assert "train longer" in compare(run).render()


def test_another_store_in_the_place_of_the_run_s_own(run, tmp_path):
    metrics(run, 5.0, 0.001)
    expected = compare(run)
    (tmp_path / "store").rename(tmp_path / "moved")
    (tmp_path / "text" / "0.txt").write_text("other " * 300)
    build_store(tmp_path / "store", [str(tmp_path / "text")], BuildOptions(holdout_fraction=0.3))
    with pytest.raises(
        DataError, match=r"data\.json: the run trained on .*/store with fingerprint"
    ):
        compare(run)
    assert compare(run, [f"data.store={tmp_path / 'moved'}"]) == expected
    with pytest.raises(DataError, match="no held-out losses"):
        compare(run, [f"data.store={tmp_path / 'moved'}", "evaluate.sequences=0"])


def test_clear_errors(run, tmp_path):
    with pytest.raises(DataError, match=r"no config\.yaml"):
        compare(tmp_path / "nowhere")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(DataError, match="no held-out losses"):
        compare(run)
    metrics(run, 1.0)
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"^data\.store = .*/store: no such folder\."):
        compare(run)
