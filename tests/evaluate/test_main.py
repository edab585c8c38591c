"""The whole verb: a run is measured as training evaluates it, alone and under a launcher."""

import json

import pytest

from tests.ranks import run_ranks, values
from tests.warm import tttscale
from tttscale.cluster import discover
from tttscale.data import BuildOptions, build_store
from tttscale.errors import ConfigError
from tttscale.evaluate.main import evaluate
from tttscale.evaluate.options import Options
from tttscale.observe import read_metrics
from tttscale.observe.plots import read_positions

RUN = """\
run: {{name: measured, dir: {root}/runs}}
model:
  vocab_size: 259
  hidden_size: 32
  intermediate_size: 48
  num_hidden_layers: 2
  num_attention_heads: 2
data: {{store: {root}/store, sequence_length: 128, documents: {documents}}}
parallel: {{chunk_length: 48}}
train: {{steps: 2, lr: 1e-2, precision: fp32, device: cpu}}
evaluate: {{sequences: 3}}
logging: {{wandb: {{mode: disabled}}}}
"""


@pytest.mark.parametrize("documents", ["ignore", "whole"])
def test_the_loss_is_that_of_the_runs_own_evaluation(tmp_path, documents):
    (tmp_path / "text").mkdir()
    for n in range(12):
        (tmp_path / f"text/{n}.txt").write_text(f"document {n} of the text. " * (5 + n))
    build_store(tmp_path / "store", [str(tmp_path / "text")], BuildOptions(holdout_fraction=0.4))
    (tmp_path / "run.yaml").write_text(RUN.format(root=tmp_path, documents=documents))
    done = tttscale("train", tmp_path / "run.yaml")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/measured"
    done = tttscale("eval", run, "--sequences", 3)
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "eval/eval.json").read_text())["tasks"]["loss"]
    *_, last = read_metrics(run / "metrics.jsonl")
    assert found["loss"] == pytest.approx(last["heldout_loss"], rel=1e-14)
    edges, losses, counts = read_positions(run / "positions.json")
    assert found["positions"]["edges"] == edges
    assert found["positions"]["loss"] == pytest.approx(losses, rel=1e-14)
    assert found["positions"]["tokens"] == counts


def rank(ranks, path, options):
    return evaluate(path, ranks, options)


def loaded(folder):
    report = json.loads((folder / "eval.json").read_text())
    for task in report["tasks"].values():
        task.pop("ranks")
        task.pop("layout")
    return report


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_of_processes_write_what_one_writes(trained_run, tmp_path, ranks):
    def options(out, layout):
        return Options(
            tasks=("loss", "passkey"), split="train", length=512, lengths=(256,), sequences=4,
            depths=2, samples=2, chunk=64, layout=layout, out=tmp_path / out,
        )  # fmt: skip

    assert values(run_ranks(rank, 1, trained_run, options("alone", "striped"))) == [0]
    alone = loaded(tmp_path / "alone")
    for layout in ("striped", "contiguous"):
        done = values(run_ranks(rank, ranks, trained_run, options(layout, layout)))
        assert done == [0] * ranks
        assert loaded(tmp_path / layout) == alone
    assert alone["tasks"]["loss"]["trained_tokens"] == 256


def test_a_folder_of_someone_else_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "eval.json").write_text("[]")
    ranks = discover({})
    with pytest.raises(ConfigError, match="not what an evaluation has written"):
        evaluate(tmp_path / "no weights are looked for", ranks, Options(out=tmp_path))
