"""What the flags of `tttscale bench` ask for, and what they refuse."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tttscale.bench import calibrate, step
from tttscale.cli import app
from tttscale.errors import ConfigError

ROOT = Path(__file__).parents[2]


def bench(*words):
    return CliRunner().invoke(app, ["bench", *words])


@pytest.fixture
def asked(monkeypatch):
    """What would be measured."""
    found = []
    monkeypatch.setattr(step, "bench_step", lambda *arguments: found.append(arguments))
    return found


@pytest.mark.parametrize("keep", ["foo", "-1", "1.5", ""])
def test_keep_is_a_number_or_auto(keep, asked):
    done = bench("step", f"--keep={keep}")
    assert isinstance(done.exception, ConfigError)
    assert f"--keep {keep!r}: expected auto" in str(done.exception)
    assert not asked


@pytest.mark.parametrize("keep", ["0", "3", "auto"])
def test_keep_is_handed_on(keep, asked):
    assert bench("step", "--keep", keep).exit_code == 0
    assert asked[0][4] == keep


def test_chunks_are_whole_mini_batches(asked):
    done = bench("step", "--chunk", "17")
    assert isinstance(done.exception, ConfigError)
    assert "--chunk 17" in str(done.exception)
    assert "set --chunk 32" in str(done.exception)
    assert not asked
    assert bench("step", "--chunk", "32").exit_code == 0
    assert asked[0][3] == 32


@pytest.mark.parametrize(
    "words", [("step", "--steps"), ("scan", "--tokens"), ("scan", "--repeats")], ids=" ".join
)
def test_nothing_is_measured_no_times(words, asked):
    done = bench(*words, "0")
    assert done.exit_code == 2
    assert words[1] in done.output
    assert not asked


@pytest.mark.parametrize("name", ["kernels", "around", "documents", "products"])
def test_what_moved_to_benchmarks_is_named_whatever_is_asked_of_it(name):
    done = bench(name, "--all", "--out", "mine", "more")
    assert isinstance(done.exception, ConfigError)
    module = str(done.exception).split("python -m ")[1]
    assert importlib.util.find_spec(module).origin.startswith(str(ROOT / "benchmarks"))
    assert name not in bench("--help").output


def test_a_configuration_is_for_calibration(asked):
    done = bench("step", str(ROOT / "configs/quickstart.yaml"))
    assert isinstance(done.exception, ConfigError)
    assert "Leave CONFIG out, or add --calibrate" in str(done.exception)
    assert not asked


def test_what_is_calibrated(monkeypatch, asked):
    found = []
    monkeypatch.setattr(calibrate, "calibrate", lambda *arguments: found.append(arguments))
    assert bench("step", "--calibrate").exit_code == 0
    words = (str(ROOT / "configs/quickstart.yaml"), "parallel.threads=3", "--costs", "c.json")
    assert bench("step", "--calibrate", *words, "--steps", "5", "--at-once", "2").exit_code == 0
    (default, *_, alone), (config, out, repeats, at_once) = found
    assert default.model.hidden_size == 128
    assert (config.parallel.threads, out, repeats) == (3, Path("c.json"), 5)
    assert (alone, at_once) == (1, 2)
    refused = bench("step", "--at-once", "2")
    assert "--at-once 2 is for --calibrate" in str(refused.exception)
    assert not asked
