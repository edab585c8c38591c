"""What a run's folder says of its checkpoints, without torch and without a change."""

import json
import subprocess
import sys

import pytest

from tests.train.checkpoint.test_folder import NAMES, write
from tttscale.config import dump_config
from tttscale.errors import CheckpointError
from tttscale.train.checkpoint.inspect import RunCheckpoints, as_json
from tttscale.train.checkpoint.manifest import versions


@pytest.fixture
def checkpoints(run):
    """Checkpoints of steps 1 and 2, with the losses of steps 1 to 3."""
    lines = [json.dumps({"step": step, "loss": 5.0 - step}) for step in (1, 2, 3)]
    (run.root.parent / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run


def looked_at(checkpoints):
    return RunCheckpoints(checkpoints.root.parent)


def test_a_list_has_steps_sizes_tokens_and_losses(checkpoints):
    first, second = looked_at(checkpoints).listed()
    assert (first.step, second.step) == (1, 2)
    assert (first.loss, second.loss) == (4.0, 3.0)
    assert second.size_bytes == sum((checkpoints.path(2) / n).stat().st_size for n in NAMES)
    assert second.written_at == (checkpoints.path(2) / "checkpoint.json").stat().st_mtime
    assert (second.tokens, second.problem) == (1, None)


def test_without_metrics_the_loss_is_not_known(run):
    assert [one.loss for one in looked_at(run).listed()] == [None, None]
    (run.root.parent / "metrics.jsonl").write_text("garbage")
    assert [one.loss for one in looked_at(run).listed()] == [None, None]


def test_what_is_wrong_by_names_and_sizes_is_listed(checkpoints):
    (checkpoints.path(1) / NAMES[0]).unlink()
    (checkpoints.path(2) / NAMES[1]).write_text("short")
    write(checkpoints, 3, keep=9)
    (checkpoints.path(3) / "checkpoint.json").unlink()
    checkpoints.partial(7).mkdir()
    found = looked_at(checkpoints)
    one, two, three = found.listed()
    assert f"step-1/{NAMES[0]}: No such file" in one.problem
    assert f"step-2/{NAMES[1]} is damaged: 5 bytes, " in two.problem
    assert "step-3/checkpoint.json: No such file" in three.problem
    assert (three.tokens, three.size_bytes, three.written_at) == (None, None, None)
    assert found.unfinished == ["step-7.partial"]


def test_one_is_shown_with_what_has_changed_since(checkpoints, small):
    then, now = checkpoints.path(2), checkpoints.root.parent
    (then / "config.yaml").write_text(dump_config(small))
    zero = small.zero.model_copy(update={"stage": 3})
    (now / "config.yaml").write_text(dump_config(small.model_copy(update={"zero": zero})))
    found = looked_at(checkpoints).shown(None)
    assert found.listed.step == 2
    assert found.optimizer_ranks == 1
    assert found.zero_stage == 1
    assert found.parallel["sequence"] == 1
    assert found.changed == {"zero.stage": ("1", "3")}
    assert found.versions_now == versions()  # of none is noted with which it was written
    assert found.files.keys() == set(NAMES)
    assert found.notes == []
    assert json.loads(json.dumps(as_json(found)))["changed"] == {"zero.stage": ["1", "3"]}


def test_configurations_that_cannot_be_read_are_not_compared(checkpoints):
    found = looked_at(checkpoints).shown(1)
    assert (found.changed, found.zero_stage, found.parallel) == ({}, None, {})
    assert len(found.notes) == 2
    assert all("configurations are not compared" in note for note in found.notes)


def test_every_byte_is_read(checkpoints):
    seen = []
    found = looked_at(checkpoints)
    (two,) = found.verified(None, every=False, progress=lambda *state: seen.append(state))
    assert (two.step, two.problems) == (2, [])
    assert seen[-1] == (two.size_bytes, two.size_bytes)
    assert len(seen) == len(NAMES)
    for name in NAMES[:2]:
        path = checkpoints.path(1) / name
        content = bytearray(path.read_bytes())
        content[7] ^= 2
        path.write_bytes(content)
    one, two = found.verified(None, every=True, progress=lambda *_: None)
    assert [name in problem for name, problem in zip(NAMES, one.problems, strict=False)] == [
        True
    ] * 2
    assert two.problems == []
    (checkpoints.path(2) / "checkpoint.json").write_text("{}")
    (two,) = found.verified(2, every=False, progress=lambda *_: None)
    assert "step-2/checkpoint.json is damaged" in two.problems[0]


def test_a_step_that_is_not_there(checkpoints):
    found = looked_at(checkpoints)
    for ask in (found.shown, lambda step: found.verified(step, False, lambda *_: None)):
        with pytest.raises(CheckpointError, match=r"--step 5: .* has checkpoints of steps 1, 2\."):
            ask(5)


def test_what_is_no_run(checkpoints, tmp_path):
    run = checkpoints.root.parent
    with pytest.raises(CheckpointError, match=r"is no folder\. Give a run's folder"):
        RunCheckpoints(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CheckpointError, match=r"it has no config\.yaml, metrics\.jsonl or checkpoints"
    ):
        RunCheckpoints(tmp_path / "empty")
    (run / "config.yaml").write_text("")
    for inside in (checkpoints.root, checkpoints.path(1)):
        with pytest.raises(
            CheckpointError, match=rf"is inside of a run's folder\. Give that: {run}"
        ):
            RunCheckpoints(inside)


def test_a_run_without_checkpoints(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    found = RunCheckpoints(tmp_path)
    assert found.listed() == []
    with pytest.raises(CheckpointError, match=r"has no checkpoint\. A run writes them"):
        found.shown(None)


def test_no_torch_is_needed(checkpoints, small):
    (checkpoints.path(2) / "config.yaml").write_text(dump_config(small))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tttscale.train.checkpoint.inspect import RunCheckpoints\n"
        f"found = RunCheckpoints(Path({str(checkpoints.root.parent)!r}))\n"
        "found.listed(), found.shown(None), found.verified(None, True, lambda *_: None)\n"
        "print([m for m in ('torch', 'deepspeed', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
