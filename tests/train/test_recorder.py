"""What a run leaves behind when its folder or its disk does not play along."""

import errno
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.scan.helpers import tiny_config, tiny_model
from tests.train.small import small_config
from tttscale.data.windows.mixture import Mixture
from tttscale.errors import ConfigError, DiskError
from tttscale.observe.plots import plot_run, read_positions
from tttscale.train.recorder import RunRecorder, check_folder

TOKENS = Mixture((), None, None)  # type: ignore[arg-type]
POSITIONS = {"edges": [0, 16, 32], "loss": [4.0, 3.0], "count": [16, 16]}
STEP = {"step": 1, "loss": 2.0}


@pytest.fixture
def config(tmp_path):
    config = small_config()
    run = config.run.model_copy(update={"dir": str(tmp_path / "runs")})
    disabled = config.logging.wandb.model_copy(update={"mode": "disabled"})
    logging = config.logging.model_copy(update={"wandb": disabled})
    return config.model_copy(update={"run": run, "logging": logging})


@pytest.fixture
def model():
    return tiny_model(tiny_config(), torch.float32)


@contextmanager
def largest_file(size):
    """A disk that is full for every file that grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_losses_by_position_on_the_way(config):
    recorder = RunRecorder(config, TOKENS)
    recorder.step(STEP)
    for loss in (4.0, 3.5):
        recorder.evaluated(POSITIONS | {"loss": [loss, 3.0]})
        assert read_positions(recorder.folder / "positions.json")[1] == [loss, 3.0]
    recorder.close()


def test_a_run_that_ended_before_its_first_step_does_not_hold_its_name(config, model):
    RunRecorder(config, TOKENS).close()
    recorder = RunRecorder(config, TOKENS)
    recorder.step(STEP)
    recorder.close()
    with pytest.raises(ConfigError, match=r"run\.name = 'small': .* already holds a run"):
        check_folder(config)
    (recorder.folder / "metrics.jsonl").unlink()
    check_folder(config)
    model.save_pretrained(recorder.folder / "final")  # nor are weights written over
    with pytest.raises(ConfigError, match="already holds a run"):
        check_folder(config)


def test_two_processes_cannot_train_in_one_folder(config):
    first = RunRecorder(config, TOKENS)
    with pytest.raises(ConfigError, match=r"another process is training in .*/runs/small\."):
        RunRecorder(config, TOKENS)
    first.step(STEP)
    first.close()
    assert (first.folder / "metrics.jsonl").read_text().count("\n") == 1


def test_a_full_disk_costs_the_weights_only_and_leaves_nothing_half_written(config, model):
    recorder = RunRecorder(config, TOKENS)
    recorder.step(STEP)
    weights = sum(p.numel() for p in model.parameters()) * 4
    model.register_buffer("large", torch.zeros(1 << 20))
    with (
        pytest.raises(DiskError, match=r"run\.dir = '.*': cannot write to .*File too large"),
        largest_file(max(weights, 1 << 20)),
    ):
        recorder.finish(model, POSITIONS)
    recorder.close()
    assert sorted(path.name for path in recorder.folder.iterdir()) == [
        *("config.yaml", "data.json", "loss_by_position.png", "loss_by_step.png"),
        *("metrics.jsonl", "positions.json"),
    ]


def test_a_plot_that_fails_does_not_keep_the_weights_back(config, model, monkeypatch):
    def fail(folder):
        raise ZeroDivisionError

    monkeypatch.setattr("tttscale.train.recorder.plot_run", fail)
    recorder = RunRecorder(config, TOKENS)
    recorder.step(STEP)
    recorder.finish(model, POSITIONS)
    recorder.close()
    assert (recorder.folder / "final" / "model.safetensors").stat().st_size > 1000


def test_a_plot_is_there_whole_or_not_at_all(config):
    recorder = RunRecorder(config, TOKENS)
    recorder.step(STEP)
    recorder.close()
    (plot,) = plot_run(recorder.folder)
    before = plot.read_bytes()
    with pytest.raises(OSError, match="File too large"), largest_file(5_000):
        plot_run(recorder.folder)
    assert [(p, p.read_bytes()) for p in recorder.folder.glob("*.png*")] == [(plot, before)]


def test_a_step_that_cannot_be_written_is_one_error(config):
    recorder = RunRecorder(config, TOKENS)
    recorder.step(STEP)
    with largest_file((recorder.folder / "metrics.jsonl").stat().st_size + 5):
        with pytest.raises(ConfigError, match=r"run\.dir = .*File too large"):
            recorder.step(STEP)
        with pytest.raises(ConfigError, match=r"run\.dir = "):
            recorder.close()


@pytest.mark.parametrize("method", ["mkdir", "exists"])
def test_a_folder_that_may_not_be_used(config, monkeypatch, method):
    def refuse(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(ConfigError, match=r"run\.dir = .*Permission denied.*run\.dir=\.\.\."):
        RunRecorder(config, TOKENS)


@pytest.mark.parametrize("name", ["config.yaml", "data.json", "metrics.jsonl"])
def test_a_planted_link_is_not_written_through(config, tmp_path, name):
    secret, folder = tmp_path / "secret", tmp_path / "runs" / "small"
    secret.write_text("theirs")
    folder.mkdir(parents=True)
    (folder / name).symlink_to(secret)
    if name == "metrics.jsonl":  # it is gone on with, and so is not replaced
        with pytest.raises(ConfigError, match=r"run\.(dir|name) = "):
            RunRecorder(config, TOKENS)
    else:
        RunRecorder(config, TOKENS).close()
        assert not (folder / name).is_symlink()
    assert secret.read_text() == "theirs"
