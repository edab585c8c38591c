"""Event files for TensorBoard. They are read back where the extra `tensorboard` is installed."""

import math
import sys

import pytest

from tttscale.errors import ConfigError
from tttscale.observe.tensorboard_sink import FOLDER, TensorboardSink, check_installed, scalars

MISSING = "NO TENSORBOARD HERE: event files are not read back; pip install 'tttscale[tensorboard]'"
RECORD = {"step": 3, "loss": 2.5, "slowest_rank": 1, "mfu": None, "skipped": True, "note": "x"}


def read(folder):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=MISSING
    )
    events = accumulators.EventAccumulator(str(folder / FOLDER))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


@pytest.fixture
def installed():
    pytest.importorskip("tensorboard", reason=MISSING)


def logged(folder, steps, loss):
    sink = TensorboardSink(folder, True)
    for step in steps:
        sink.log(RECORD | {"step": step, "loss": loss})
    sink.finish()


def test_numbers_only():
    assert scalars(RECORD) == {"loss": 2.5, "slowest_rank": 1.0}
    assert math.isnan(scalars({"loss": math.nan})["loss"])


def test_off_writes_nothing(tmp_path):
    sink = TensorboardSink(tmp_path, False)
    sink.log(RECORD)
    sink.finish()
    assert [*tmp_path.iterdir()] == []


def test_numbers_by_step(tmp_path, installed):
    logged(tmp_path, range(1, 6), 2.5)
    found = read(tmp_path)
    assert found == {
        "loss": [(step, 2.5) for step in range(1, 6)],
        "slowest_rank": [(step, 1.0) for step in range(1, 6)],
    }


def test_a_resumed_run_repeats_no_step(tmp_path, installed):
    logged(tmp_path, range(1, 6), 4.0)
    logged(tmp_path, range(4, 8), 2.0)
    assert read(tmp_path)["loss"] == [(s, 4.0 if s < 4 else 2.0) for s in range(1, 8)]


def test_a_run_that_rolls_back_repeats_no_step(tmp_path, installed):
    sink = TensorboardSink(tmp_path, True)
    for step, loss in [(1, 4.0), (2, 4.0), (3, 4.0), (2, 2.0), (3, 2.0)]:
        sink.log({"step": step, "loss": loss})
    sink.finish()
    assert read(tmp_path)["loss"] == [(1, 4.0), (2, 2.0), (3, 2.0)]


def test_a_failure_is_said_once_and_the_run_continues(tmp_path, installed, caplog):
    (tmp_path / FOLDER).write_text("a file where a folder should be")
    sink = TensorboardSink(tmp_path, True)
    for step in (1, 2, 3):
        sink.log({"step": step, "loss": 1.0})
    sink.finish()
    assert caplog.text.count("TensorBoard is off for the rest of this run") == 1
    assert (tmp_path / FOLDER).read_text().startswith("a file")


def test_a_link_is_not_written_through(tmp_path, installed, caplog):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / FOLDER).symlink_to(tmp_path / "elsewhere")
    logged(tmp_path, [1], 1.0)
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    assert "is a link" in caplog.text


def test_without_the_package(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(
        ConfigError, match=r"logging\.tensorboard = true needs tensorboard.*\[tensorboard\]"
    ):
        check_installed()
    TensorboardSink(tmp_path, True).log(RECORD)
    assert "TensorBoard is off" in caplog.text
