"""A run that breaks down: advice by its cause, no checkpoint of it, and an end to starting it in vain."""

import re
from types import SimpleNamespace

import pytest
import torch

from tests.ranks import run_ranks, values
from tests.train.checkpoint.test_manager import checkpoints_of, save, some_steps
from tests.train.small import small_config, small_trainer
from tests.train.test_run import run
from tttscale.comm.mesh import Mesh
from tttscale.errors import NumericsError
from tttscale.scan.transport import SingleRank
from tttscale.train.divergence import Divergence

TOO_FAST = ["train.steps=9", "train.lr_final=0", "train.warmup_steps=0", "checkpoint.every=1"]


def test_the_same_command_is_told_what_to_do_and_stops_trying(folder):
    """Updates that go too far: the run breaks down, and does so again; then it is not started any more."""
    words = ["run.name=diverged", *TOO_FAST, "train.lr=3e9"]
    first = run(folder, *words)
    assert first.returncode == 76, first.stderr
    assert "Traceback" not in first.stderr
    step = int(re.search(r"error: step (\d+): ", first.stderr).group(1))
    checkpoints = folder / "runs" / "diverged" / "checkpoints"
    there = sorted(int(path.name.removeprefix("step-")) for path in checkpoints.iterdir())
    named = re.search(r"checkpoint\.resume=(\d+) train\.lr=1\.5e\+09", first.stderr)
    if named is None:
        assert f"(there is step {', '.join(map(str, there))})" in first.stderr
        assert "another run.name" in first.stderr
    else:
        assert int(named.group(1)) in there
        assert int(named.group(1)) < step - 1
    second = run(folder, *words)
    assert second.returncode == 76
    assert f"error: step {step}: " in second.stderr
    assert "This step has now failed 2 times in the same way" in second.stderr
    third = run(folder, *words)
    assert third.returncode == 76
    assert "this command has failed 2 times at the same step" in third.stderr
    assert "step  loss" not in third.stdout  # no step was tried
    assert (folder / "runs" / "diverged" / "diverged.json").stat().st_size < 4096
    other = run(folder, *words, "train.lr=1e-3")  # another configuration is another attempt
    assert "it is not started" not in other.stderr


@pytest.fixture
def diverging(tmp_path):
    """Divergence objects of a run with checkpoints of some steps."""

    def make(steps=(), resumed=None, **keys):
        for step in steps:
            folder = tmp_path / "checkpoints" / f"step-{step}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "checkpoint.json").write_text("{}")
        config = small_config(**keys.pop("train", {}))
        model = config.model.model_copy(update=keys)
        config = config.model_copy(update={"model": model})
        manifest = SimpleNamespace(render=lambda: resumed, step=max(steps, default=1))
        checkpoint = resumed and SimpleNamespace(manifest=manifest)
        return Divergence(config, Mesh(0, 1, 1, SingleRank()), tmp_path, checkpoint)

    return make


def failing(step, sound):
    return NumericsError(f"step {step}: the loss is not finite.", step, sound)


def test_the_checkpoint_that_is_named_was_made_before_it_went_wrong(diverging):
    found = str(diverging(steps=(3, 4, 5)).explained(failing(6, 4)))
    assert "checkpoint.resume=4 train.lr=0.005" in found
    assert "add 6 to data.skip_steps" in found
    found = str(diverging(steps=(5,)).explained(failing(9, 8)))
    assert "checkpoint.resume=5" in found


def test_weights_that_already_failed_are_not_mended_by_a_lower_rate(diverging):
    only = str(diverging(steps=(1,), resumed="this one").explained(failing(2, 0)))
    assert "The weights of step 1, from which this run resumed, give no finite loss" in only
    assert "Lower train.lr" not in only
    assert "start again under another run.name" in only
    later = str(diverging(steps=(1, 4), resumed="this one").explained(failing(5, 3)))
    assert "The weights of step 4" in later
    assert "checkpoint.resume=1 train.lr=0.005" in later
    reached = str(diverging(steps=(1, 4), resumed="this one").explained(failing(6, 4)))
    assert "Lower train.lr" in reached


def test_where_none_is_old_enough_or_there_is_none_that_is_said(diverging):
    found = str(diverging(steps=(5,)).explained(failing(6, 4)))
    assert "No checkpoint is old enough to resume from (there is step 5)" in found
    assert "checkpoint.resume" not in found


def test_before_any_update_the_learning_rate_is_not_blamed(diverging):
    found = str(diverging().explained(failing(1, -1)))
    assert "so train.lr is not the cause: lower model.ttt_base_lr or model.init" in found
    assert "Lower train.lr" not in found
    found = str(diverging(initial_weights="other/model").explained(failing(1, -1)))
    assert "look at the weights of model.initial_weights = other/model" in found
    assert "Lower train.lr" not in found
    found = str(diverging(train={"precision": "bf16"}).explained(failing(1, -1)))
    assert "train.precision=fp32" in found
    found = str(diverging().explained(failing(1, 0)))  # its own update went wrong
    assert "Lower train.lr" in found


def test_a_step_that_went_well_is_forgotten_and_another_one_starts_to_count(diverging, tmp_path):
    for times in (1, 2):
        found = str(diverging(resumed="x").explained(failing(6, 4)))
        assert ("failed 2 times" in found) == (times == 2)
    with pytest.raises(NumericsError, match="not started"):
        diverging(resumed="x").refuse()
    diverging(resumed="another checkpoint").refuse()
    diverging(resumed="x", train={"lr": 1e-3}).refuse()
    later = diverging(resumed="x")
    later.passed(5)
    assert (tmp_path / "diverged.json").exists()
    later.passed(6)
    assert not (tmp_path / "diverged.json").exists()
    diverging(resumed="x").refuse()
    diverging(resumed="x").explained(failing(7, 5))
    assert "failed" not in str(diverging(resumed="x").explained(failing(8, 6)))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 4000, b"[1]", b"{}" + b" " * 9000])
def test_a_note_that_is_no_longer_legible_is_none(diverging, tmp_path, content):
    (tmp_path / "diverged.json").write_bytes(content)
    diverging().refuse()
    assert "failed" not in str(diverging().explained(failing(3, 1)))


def no_checkpoint_of_nan(ranks, folder):
    """A weight, then a moment that only one rank keeps: nothing is written, and all ranks know why."""
    config = small_config(2)
    trainer, model, _ = small_trainer(ranks, config)
    checkpoints = checkpoints_of(config, trainer, folder)
    some_steps(trainer, config, 1, 1)
    save(checkpoints, trainer, model, 1)
    errors = []
    weight = model.model.norm.weight.data
    kept = weight[3].item()
    weight[3] = float("nan")
    with pytest.raises(NumericsError) as error:
        save(checkpoints, trainer, model, 2)
    errors.append(str(error.value))
    weight[3] = kept
    if ranks.rank == 1:
        trainer._engine.fragments()[0].moments["exp_avg_sq"][0] = float("inf")
    with pytest.raises(NumericsError) as error:
        save(checkpoints, trainer, model, 2)
    errors.append(str(error.value))
    return errors, checkpoints.find().manifest.step


def test_what_is_no_number_is_never_saved(tmp_path):
    first, second = values(run_ranks(no_checkpoint_of_nan, 2, str(tmp_path)))
    assert first == second
    (weight, moment), step = first
    assert "step 2: model.norm.weight is not finite. No checkpoint is written" in weight
    assert "exp_avg_sq of " in moment
    assert step == 1


def held_out_nan(ranks):
    from tests.train.small import small_windows

    config = small_config()
    trainer, model, sweeps = small_trainer(ranks, config)
    model.model.norm.weight.data[:] = torch.nan
    return trainer.evaluate(small_windows(config), sweeps, 4).loss


def test_a_held_out_loss_that_is_no_number_is_seen():
    (loss,) = values(run_ranks(held_out_nan, 1))
    assert loss != loss
