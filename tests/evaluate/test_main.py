"""The whole verb: a run is measured as training evaluates it, alone and under a launcher."""

import json

import pytest

from tests.ranks import run_ranks, values
from tttscale.evaluate.main import evaluate
from tttscale.evaluate.options import Options


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
