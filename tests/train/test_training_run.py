"""A run is built, announced and run; what fails while it is built leaves nothing open and nothing changed."""

import pytest

from tests.ranks import run_ranks, values
from tttscale.config import load_config
from tttscale.errors import CheckpointError
from tttscale.train import build
from tttscale.train.recorder import NullRecorder, Recorder, RunRecorder
from tttscale.train.training_run import TrainingRun


def methods(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


def test_both_recorders_have_what_the_protocol_names():
    wanted = methods(Recorder)
    assert {"step", "log", "close", "wandb_id"} <= wanted
    assert methods(NullRecorder) == wanted
    assert methods(RunRecorder) | {"wandb_id"} == wanted


def built_and_announced(ranks, path):
    """What is said, in order, and what is there before the first step."""
    said = []
    RunRecorder.log = lambda _, text: said.append(text)
    config = load_config(path, ["run.name=built"])
    run = TrainingRun.build(config, ranks)
    folder = run.parts.recorder.folder
    while_building = list(said)
    run.announce()
    run.parts.recorder.close()
    assert run.parts.done == run.parts.trainer.tokens == 0
    assert not (folder / "metrics.jsonl").read_text()
    return while_building, said[len(while_building) :]


def test_a_run_says_what_it_is_when_it_is_announced(folder):
    ((while_building, announced),) = values(run_ranks(built_and_announced, 1, folder / "run.yaml"))
    assert [line.split(":")[0] for line in while_building] == ["wandb"]
    begins = [
        "fp32 products by ",
        "built: ",
        "scan: ",
        "operators ",
        f"{folder / 'store'}: ",
        "plan: ",
    ]
    assert len(announced) == len(begins)
    assert all(line.startswith(b) for line, b in zip(announced, begins, strict=True))


def build_that_fails(ranks, path):
    """Late, in the model, with the recorder open already."""
    closed = []
    plain = RunRecorder.close
    RunRecorder.close = lambda self: (closed.append(True), plain(self))[1]

    def fail(*_):
        raise CheckpointError("no such weights")

    works, build.build_model = build.build_model, fail
    config = load_config(path, ["run.name=fails"])
    with pytest.raises(CheckpointError, match="no such weights"):
        TrainingRun.build(config, ranks)
    assert closed == [True]
    build.build_model = works  # the folder is free again
    TrainingRun.build(config, ranks).parts.recorder.close()


def test_a_build_that_fails_closes_the_recorder(folder):
    values(run_ranks(build_that_fails, 1, folder / "run.yaml"))
