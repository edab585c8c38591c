"""Whether a command may begin in a folder: what was done is never started over, nothing is deleted."""

import json
import math
import os
import shutil

import pytest

from tests.train.checkpoint.test_folder import whole, write
from tests.train.small import small_config
from tttscale.config import dump_config
from tttscale.data.windows.mixture import Mixture
from tttscale.errors import CheckpointError, ConfigError, DataError
from tttscale.observe import MetricsLog, read_metrics
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manager import Checkpoint
from tttscale.train.checkpoint.manifest import read_manifest
from tttscale.train.recorder import RunRecorder
from tttscale.train.run_folder import check_folder, note_saved, run_folder

TOKENS = Mixture((), None, None)  # type: ignore[arg-type]
EVERY = 10


def settings(tmp_path, **checkpoint):
    config = small_config(steps=100)
    run = config.run.model_copy(update={"dir": str(tmp_path / "runs")})
    disabled = config.logging.wandb.model_copy(update={"mode": "disabled"})
    logging = config.logging.model_copy(update={"wandb": disabled})
    asked = config.checkpoint.model_copy(update={"every": EVERY, **checkpoint})
    return config.model_copy(update={"run": run, "logging": logging, "checkpoint": asked})


def started(config, steps):
    """A run that has done so many steps, with checkpoints of every tenth."""
    folder = run_folder(config)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    with MetricsLog(folder / "metrics.jsonl") as log:
        for step in range(1, steps + 1):
            log.write({"step": step, "loss": 2.0, "tokens": step})
    checkpoints = CheckpointFolder(folder / "checkpoints")
    for step in range(EVERY, steps + 1, EVERY):
        write(checkpoints, step, keep=9)
    return folder, checkpoints


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lose_manifests(checkpoints):
    for path in checkpoints.root.glob("step-*/checkpoint.json"):
        path.unlink()


LOSSES = {
    "all manifests": lose_manifests,
    "the folder": lambda checkpoints: shutil.rmtree(checkpoints.root),
    "what is in it": lambda checkpoints: [shutil.rmtree(p) for p in checkpoints.root.iterdir()],
    "moved away": lambda checkpoints: checkpoints.root.rename(checkpoints.root.parent / "backup"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("steps", [11, 40, 45])
def test_a_run_whose_checkpoints_are_lost_is_not_started_over(tmp_path, loss, steps):
    config = settings(tmp_path)
    folder, checkpoints = started(config, steps)
    LOSSES[loss](checkpoints)
    before = tree(folder)
    for begin in (check_folder, lambda config: RunRecorder(config, TOKENS)):
        with pytest.raises(
            CheckpointError, match=r"no checkpoint to resume from, but .*run\.name=\.\.\."
        ):
            begin(config)
    assert tree(folder) == before


def test_a_checkpoint_on_request_before_the_first_planned_one_is_known_too(tmp_path):
    config = settings(tmp_path)
    folder, checkpoints = started(config, 5)
    check_folder(config)  # killed before its first checkpoint: it starts again
    note_saved(folder, 5)
    with pytest.raises(CheckpointError, match=r"saved\.json says that there was one"):
        check_folder(config)
    (folder / "saved.json").unlink()
    checkpoints.path(5).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"step-5 has no checkpoint\.json"):
        check_folder(config)


def test_killed_in_its_first_save_it_starts_again(tmp_path):
    config = settings(tmp_path)
    _, checkpoints = started(config, EVERY)
    (checkpoints.path(EVERY)).rename(checkpoints.partial(EVERY))
    (checkpoints.partial(EVERY) / "checkpoint.json").unlink()
    check_folder(config)


@pytest.mark.parametrize(
    ("steps", "again"), [(EVERY + 3, True), (2 * EVERY, True), (2 * EVERY + 1, False)]
)
def test_killed_while_its_first_save_is_written_beside_the_steps_it_starts_again(
    tmp_path, steps, again
):
    """Before the second is due; with more steps the first has been there, and is lost."""
    config = settings(tmp_path)
    _, checkpoints = started(config, steps)
    shutil.rmtree(checkpoints.root)
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        check_folder(config)
    checkpoints.announce(EVERY)
    if again:
        check_folder(config)
        return
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        check_folder(config)


@pytest.mark.parametrize("asked", [{"resume": "never"}, {"resume": 20}, {"every": 0}])
def test_nor_by_another_word(tmp_path, asked):
    _, checkpoints = started(settings(tmp_path), 25)
    LOSSES["the folder"](checkpoints)
    with pytest.raises(ConfigError, match="already holds a run"):
        check_folder(settings(tmp_path, **asked))


def replace_line(path, number, text):
    lines = path.read_bytes().split(b"\n")
    lines[number - 1 : number] = text
    path.write_bytes(b"\n".join(lines))


def record(step, **more):
    return json.dumps({"step": step, "loss": 2.0, "tokens": step} | more).encode()


HARM = {  # line 7 of 25 becomes these lines
    "a gap": [],
    "twice": [record(7), record(7)],
    "back": [record(3)],
    "ahead": [record(8)],
    "garbage": [b"\x00" * 300],
    "not UTF-8": [b'{"step": 7, "note": "\xff"}'],
    "cut in the middle": [b'{"step": 7, "lo'],
    "no object": [b"[7]"],
    "no step": [b'{"loss": 2.0}'],
    "a step that is no number": [record("7")],
    "a fraction": [record(7.0)],
    "true": [record(True)],
    "a bare NaN": [b'{"step": 7, "loss": NaN}'],
    "a loss that is none": [record(7, loss="low")],
    "tokens that are none": [record(7, tokens=None)],
    "huge": [b'{"step": 7, "x": "' + b"x" * (3 << 20) + b'"}'],
    "deep": [b'{"step": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_to_the_metrics_is_found_first_and_named(tmp_path, harm):
    config = settings(tmp_path)
    folder, checkpoints = started(config, 25)
    metrics = folder / "metrics.jsonl"
    replace_line(metrics, 7, HARM[harm])
    before = tree(folder)
    line = 8 if harm == "twice" else 7
    with pytest.raises(
        DataError, match=rf"metrics\.jsonl:{line}: expected .*found .* move it away"
    ) as e:
        check_folder(config)
    assert len(str(e.value)) < 800
    assert tree(folder) == before
    asked = settings(tmp_path, resume=10)
    with pytest.raises(DataError, match=rf":{line}: "):
        check_folder(asked)
    lose_manifests(checkpoints)  # nor does it start again: it cannot be told how far it was
    with pytest.raises((DataError, CheckpointError)):
        check_folder(config)
    metrics.rename(folder / "metrics-old.jsonl")  # the way out that the message names
    for step in (10, 20):
        shutil.rmtree(checkpoints.path(step))
        write(checkpoints, step, keep=9)
    check_folder(config)


def resumed(checkpoints, step, tokens):
    manifest = read_manifest(checkpoints.path(step)).model_copy(update={"tokens": tokens})
    return Checkpoint(checkpoints.path(step), manifest)


@pytest.mark.parametrize(
    "tail", [b'{"step": 26, "lo', b"\0" * 99, b"[]\n", b"x" * (2 << 20) + b"\n"]
)
def test_what_comes_after_the_checkpoint_is_replaced_anyway(tmp_path, tail, capsys):
    config = settings(tmp_path)
    folder, checkpoints = started(config, 25)
    metrics = folder / "metrics.jsonl"
    content = metrics.read_bytes()
    metrics.write_bytes(content + tail)
    check_folder(config)
    recorder = RunRecorder(config, TOKENS, resumed(checkpoints, 20, 20))
    recorder.truncate_after(20)
    recorder.step({"step": 21, "loss": 1.5})
    recorder.close()
    assert [r["step"] for r in read_metrics(metrics)] == list(range(1, 22))
    said = capsys.readouterr().out
    assert "after step 20 were moved to" in said
    assert ("last line was cut short" in said) == (b"\n" not in tail)
    aside = (folder / "metrics-replaced.jsonl").read_bytes()
    assert aside == b"".join(content.splitlines(True)[20:]) + (tail if b"\n" in tail else b"")


def test_metrics_that_end_before_the_checkpoint(tmp_path):
    config = settings(tmp_path)
    folder, _ = started(config, 25)
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(True)[:15]))
    with pytest.raises(DataError, match=r":15: expected records up to step 20, found 15 last"):
        check_folder(config)
    check_folder(settings(tmp_path, resume=10))


def test_metrics_of_another_run(tmp_path):
    config = settings(tmp_path)
    folder, checkpoints = started(config, 25)
    with pytest.raises(
        DataError, match=r":20: expected 640 tokens after step 20, .* another run's"
    ):
        RunRecorder(config, TOKENS, resumed(checkpoints, 20, 640))
    assert len(read_metrics(folder / "metrics.jsonl")) == 25


def test_metrics_that_were_moved_away_begin_anew_and_that_is_said(tmp_path, capsys):
    config = settings(tmp_path)
    folder, checkpoints = started(config, 25)
    (folder / "metrics.jsonl").rename(folder / "old.jsonl")
    for _ in range(2):  # killed before its next step, and started once more
        check_folder(config)
        recorder = RunRecorder(config, TOKENS, resumed(checkpoints, 20, 20))
        recorder.truncate_after(20)
        recorder.close()
        assert "metrics.jsonl has no records; " in capsys.readouterr().out
    with MetricsLog(folder / "metrics.jsonl") as log:
        for step in range(21, 35):
            log.write({"step": step, "loss": math.nan, "tokens": step})
    write(checkpoints, 30, keep=9)
    check_folder(config)
    RunRecorder(config, TOKENS, resumed(checkpoints, 30, 30)).close()
    assert "has no records before step 21; " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_metrics_that_are_no_file_are_not_written(tmp_path, kind):
    config = settings(tmp_path)
    folder, checkpoints = started(config, 25)
    metrics, elsewhere = folder / "metrics.jsonl", tmp_path / "elsewhere"
    metrics.rename(elsewhere)
    before = elsewhere.read_bytes()
    {"link": lambda: metrics.symlink_to(elsewhere), "pipe": lambda: os.mkfifo(metrics)}.get(
        kind, metrics.mkdir
    )()
    with pytest.raises(ConfigError, match=r"run\.dir = .*metrics\.jsonl"):
        RunRecorder(config, TOKENS, resumed(checkpoints, 20, 20))
    assert elsewhere.read_bytes() == before


def test_files_of_others_are_never_removed(tmp_path):
    """In a checkpoint that is pruned, in one that was given up, in one without its head, and beside them."""
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    write(checkpoints, 1)
    (checkpoints.path(1) / "notes.txt").write_text("mine")
    (checkpoints.path(1) / "plots").mkdir()
    write(checkpoints, 2)
    (checkpoints.partial(2)).mkdir()
    (checkpoints.partial(2) / "results.json").write_text("mine")
    (checkpoints.partial(2) / "model.safetensors").write_text("half")
    checkpoints.path(7).mkdir()
    (checkpoints.path(7) / "model.safetensors").write_text("headless")
    shutil.copytree(checkpoints.path(2), checkpoints.path(99))  # an archive under such a name
    for step in (3, 4, 7):
        write(checkpoints, step)
    left = tree(checkpoints.root)
    assert [k for k in left if "step-1/" in k] == ["step-1/notes.txt"]
    assert (checkpoints.path(1) / "plots").is_dir()
    assert left["step-2.partial/results.json"] == b"mine"
    assert left["set-aside-7-1/model.safetensors"] == b"headless"
    assert checkpoints.steps() == [99, 7, 4]
    assert whole(checkpoints, 7)
    assert read_manifest(checkpoints.path(99)).step == 2
    assert not checkpoints.path(2).exists()
    assert not checkpoints.path(3).exists()
    write(checkpoints, 2)  # somebody's files are where it wants to write
    assert tree(checkpoints.root)["set-aside-2.partial-1/results.json"] == b"mine"


def test_a_link_under_the_name_of_a_half_written_checkpoint(tmp_path):
    checkpoints, elsewhere = CheckpointFolder(tmp_path / "checkpoints"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.safetensors").write_text("mine")
    checkpoints.root.mkdir()
    checkpoints.partial(3).symlink_to(elsewhere)
    write(checkpoints, 3)
    assert whole(checkpoints, 3)
    assert tree(elsewhere) == {"model.safetensors": b"mine"}


def test_files_of_a_run_that_a_killed_process_left_half_written(tmp_path):
    config = settings(tmp_path)
    folder, checkpoints = started(config, 20)
    (folder / "config.yaml.partial-4711").write_text("ru")
    (folder / "loss_by_step.png.partial-4711").write_text("half a plot")
    (folder / "config.yaml.partial-mine").write_text("mine")
    RunRecorder(config, TOKENS, resumed(checkpoints, 20, 20)).close()
    assert not (folder / "config.yaml.partial-4711").exists()
    assert not (folder / "loss_by_step.png.partial-4711").exists()
    assert (folder / "config.yaml.partial-mine").exists()
