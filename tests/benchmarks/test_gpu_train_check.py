"""What the trainer's check on a GPU takes for equal, and what it does when a stage fails."""

import json

import pytest

from benchmarks.gpu import train_check as gpu_train_check
from benchmarks.gpu.round import Ending, Round
from benchmarks.gpu.train_check import STEPS, Check, Findings, differences, trial
from tttscale.config import Config


def write_run(folder, steps=STEPS, loss=lambda step: 5.0 / step, weights=b"w", moments=b"m"):
    (folder / "final").mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": s, "loss": loss(s), "grad_norm": 1.5, "lr": 1e-3, "tokens": 512 * s}
        for s in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "final" / "model.safetensors").write_bytes(weights)
    last = folder / "checkpoints" / f"step-{STEPS}"
    last.mkdir(parents=True, exist_ok=True)
    (last / "moments-0.safetensors").write_bytes(moments)
    return folder


def test_equal_runs(tmp_path):
    assert differences(write_run(tmp_path / "a"), write_run(tmp_path / "b")) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loss": lambda s: 5.0 / s + (1e-15 if s == 13 else 0)}, "loss from step 13"),
        ({"steps": STEPS - 1}, "steps "),
        ({"weights": b"x"}, "final/model.safetensors has other bits"),
        ({"moments": b"x"}, f"checkpoints/step-{STEPS}/moments-0.safetensors has other bits"),
    ],
)
def test_every_difference_is_found(changed, said, tmp_path):
    found = differences(write_run(tmp_path / "a"), write_run(tmp_path / "b", **changed))
    assert len(found) == 1
    assert said in found[0]


def test_runs_that_wrote_nothing_are_not_equal(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert len(differences(tmp_path / "a", tmp_path / "b")) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_configuration_is_one_of_the_project(device, tmp_path):
    config = Config.model_validate(trial(tmp_path, device, "whole"))
    assert config.zero.stage == 1
    assert config.train.precision == "bf16"
    assert config.train.compile is True


def test_a_run_that_is_not_killed_in_between_is_no_proof(tmp_path, monkeypatch):
    """It was too fast: the same command afterwards would only look at a finished run."""
    check = Check("cpu", tmp_path, Findings("CPU"), tmp_path / "log")

    def finishes(*_):
        write_run(tmp_path / "runs" / "killed")
        return Ending(0)

    monkeypatch.setattr(gpu_train_check, "run_lines", finishes)
    monkeypatch.setattr(gpu_train_check, "_row", lambda *_: {})
    with pytest.raises(RuntimeError, match="not killed in between"):
        check.killed(Round("cpu", 100))
    with pytest.raises(RuntimeError, match="no run was killed"):
        check.resumed(Round("cpu", 100))


def test_stages_that_fail_are_in_the_report(tmp_path, monkeypatch):
    failed = Ending(1, "error: no space left on device")
    monkeypatch.setattr(gpu_train_check, "run_lines", lambda *_: failed)
    assert gpu_train_check.main(tmp_path / "train", 100) == 1
    text = (tmp_path / "train.md").read_text()
    assert "NOT REACHED" in text
    assert "store: RuntimeError('tttscale data build with 1: error: no space left" in text
    assert "half as long chunks: RuntimeError(" in text
    assert "no space left" in (tmp_path / "train.log").read_text()
