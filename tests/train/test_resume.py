"""The command on a run that was stopped: killed, told to save, finished, or asked for something else."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.train.test_run import command, run
from tests.warm import Command, Fresh, tttscale
from tttscale.data import BuildOptions, build_store
from tttscale.model import TTTForCausalLM
from tttscale.observe import read_metrics

SAVES = ["train.steps=12", "train.lr_final=1e-3", "checkpoint.every=3", "checkpoint.keep=2"]
EXACT = ("step", "loss", "grad_norm", "lr", "tokens", "heldout_loss")


def records(folder, name):
    found = read_metrics(folder / "runs" / name / "metrics.jsonl")
    return [{key: record.get(key) for key in EXACT} for record in found]


def weights(folder, name):
    return (folder / "runs" / name / "final" / "model.safetensors").read_bytes()


def there(folder, name):
    return sorted(path.name for path in (folder / "runs" / name / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(folder):
    """A run of 12 steps that nothing interrupts."""
    done = run(folder, "run.name=whole", *SAVES)
    assert done.returncode == 0, done.stderr
    assert "checkpoints/step-12 (" in done.stdout
    assert there(folder, "whole") == ["step-12", "step-9"]
    return records(folder, "whole"), weights(folder, "whole")


def stop(folder, name, number, after, *overrides, ranks=1):
    """Start a run and signal it once `after` steps are written; its exit code and output."""
    words = (f"run.name={name}", *SAVES, *overrides)
    if ranks == 1:
        started = Command(["train", folder / "run.yaml", *words])
    else:
        started = Fresh(command(folder, *words, ranks=ranks))
    metrics = folder / "runs" / name / "metrics.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (metrics.exists() and metrics.read_text().count("\n") >= after):
            assert started.poll() is None, started.said()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if number == signal.SIGKILL:
            os.killpg(started.pid, number)
        else:
            os.kill(last_child(started.pid) if ranks > 1 else started.pid, number)
        done = started.wait(120)
    finally:
        started.kill()
    return done.returncode, done.stdout + done.stderr


def last_child(pid):
    """torchrun's youngest process: one rank of two."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])


def test_killed_and_started_again(folder, whole):
    """After steps that no checkpoint has: their records are cut. Repeated kills are for the campaigns."""
    # The save after step 6 has waited for that after step 3.
    code, _ = stop(folder, "killed", signal.SIGKILL, 7)
    assert code == -signal.SIGKILL
    done = run(folder, "run.name=killed", *SAVES)
    assert done.returncode == 0, done.stderr
    assert "resumes after step" in done.stdout
    assert records(folder, "killed") == whole[0]
    assert weights(folder, "killed") == whole[1]
    assert there(folder, "killed") == ["step-12", "step-9"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_told_to_save(folder, whole, number):
    name = f"told-by-{number.name}"
    code, output = stop(folder, name, number, 4)
    assert code == 75, output
    assert f"{number.name}: saved and ended" in output
    assert "Traceback" not in output
    done = len(records(folder, name))
    assert f"step-{done}" in there(folder, name)
    again = run(folder, f"run.name={name}", *SAVES)
    assert again.returncode == 0, again.stderr
    assert f"resumes after step {done} from " in again.stdout
    assert records(folder, name) == whole[0]
    assert weights(folder, name) == whole[1]


def test_one_rank_of_two_is_told(folder):
    split = ["parallel.sequence=2"]
    expected = run(folder, "run.name=two", *SAVES, *split, ranks=2)
    assert expected.returncode == 0, expected.stderr
    _, output = stop(folder, "two-told", signal.SIGTERM, 4, *split, ranks=2)
    assert "SIGTERM: saved and ended" in output
    assert "<N/A>" not in output  # torchrun knows why, too
    again = run(folder, "run.name=two-told", *SAVES, *split, ranks=2)
    assert again.returncode == 0, again.stderr
    assert records(folder, "two-told") == records(folder, "two")
    assert weights(folder, "two-told") == weights(folder, "two")


LEFT = """
import os, signal, time
from pathlib import Path
from tttscale.comm.mesh import Mesh
from tttscale.train.recorder import NullRecorder
from tttscale.train.trainer import Trainer

first, folder = os.environ["RANK"] == "0", Path({folder!r})
step, close = Trainer.step, Mesh.close

def told(self, number, windows):
    if number == 2 and first:
        os.kill(os.getpid(), signal.SIGUSR1)
    return step(self, number, windows)

def slow(self):
    time.sleep(1)
    (folder / "slow-rank-is-done").touch()

def leave(self):
    if first:
        (folder / "seen").write_text(str((folder / "slow-rank-is-done").exists()))
    close(self)

Trainer.step, Mesh.close = told, leave
if not first:
    NullRecorder.close = slow
"""


def test_no_rank_ends_with_a_code_before_all_are_done(folder):
    """A launcher ends the others as soon as one has ended so."""
    words = ("run.name=together", "parallel.sequence=2", *SAVES)
    before = LEFT.format(folder=str(folder))
    done = tttscale("train", folder / "run.yaml", *words, ranks=2, before=before)
    assert done.returncode == 75, done.stderr
    assert (folder / "seen").read_text() == "True"


def test_without_checkpoints_the_signal_is_ignored(folder):
    code, output = stop(folder, "deaf", signal.SIGUSR1, 4, "checkpoint.every=0")
    assert code == 0, output
    assert len(records(folder, "deaf")) == 12


def test_a_finished_run(folder, whole):
    """It is not trained again; with more steps it resumes, from an older step if asked."""
    shutil.copytree(folder / "runs" / "whole", folder / "runs" / "more")
    again = run(folder, "run.name=more", *SAVES)
    assert again.returncode == 64
    assert "holds a run that is finished after train.steps = 12" in again.stderr
    shorter = run(folder, "run.name=more", *SAVES, "train.steps=6")
    assert shorter.returncode == 64
    assert "train.steps = 6: " in shorter.stderr
    never = run(folder, "run.name=more", *SAVES, "checkpoint.resume=never")
    assert never.returncode == 64
    assert "already holds a run" in never.stderr
    missing = run(folder, "run.name=more", *SAVES, "checkpoint.resume=5")
    assert missing.returncode == 66
    assert "checkpoint.resume = 5: " in missing.stderr
    assert "has checkpoints of steps 9, 12." in missing.stderr
    assert records(folder, "more") == whole[0]
    back = run(folder, "run.name=more", *SAVES, "checkpoint.resume=9", "train.steps=15")
    assert back.returncode == 0, back.stderr
    assert "train.steps = 15 from here on, was 12" in back.stdout
    rates = [r["lr"] for r in whole[0]]
    rate = records(folder, "more")[9]["lr"]
    said = f"the learning rate of step 10 is {rate:.4g}; as configured before it would be {rates[9]:.4g}"
    assert said in back.stdout
    assert "step was moved to " in back.stdout
    assert [r["step"] for r in records(folder, "more")] == list(range(1, 16))
    assert records(folder, "more")[:9] == whole[0][:9]
    assert there(folder, "more") == ["set-aside-12-1", "step-12", "step-15"]
    replaced = read_metrics(folder / "runs" / "more" / "metrics-replaced.jsonl")
    assert [record["step"] for record in replaced] == [10, 11, 12]


def test_weights_that_were_not_written_any_more(folder, whole):
    """Killed between the last checkpoint and the final weights: only these are made."""
    path = folder / "runs" / "last"
    shutil.copytree(folder / "runs" / "whole", path)
    shutil.rmtree(path / "final")
    (path / "positions.json").unlink()
    done = run(folder, "run.name=last", *SAVES)
    assert done.returncode == 0, done.stderr
    assert records(folder, "last") == whole[0]
    assert weights(folder, "last") == whole[1]
    assert (path / "positions.json").exists()


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("model.hidden_size=24", 66, "model.hidden_size = 24, but the run in .* with 16"),
        ("data.sequence_length=128", 66, "data.sequence_length = 128, but the run in .* with 256"),
        ("run.seed=3", 66, "run.seed = 3, but the run in .* with 0"),
        ("data.store={other}", 65, "the run trained on .* with fingerprint"),
    ],
)
def test_another_run(folder, whole, override, code, message):
    other = folder / "other-text"
    if not other.exists():
        other.mkdir()
        (other / "a.txt").write_text("something else. " * 300)
        (other / "b.txt").write_text("and else. " * 300)
        build_store(folder / "other-store", [str(other)], BuildOptions(holdout_fraction=0.3))
    override = override.format(other=folder / "other-store")
    before = (folder / "runs" / "whole" / "metrics.jsonl").read_bytes()
    done = run(folder, "run.name=whole", *SAVES, "train.steps=13", override)
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr)
    assert (folder / "runs" / "whole" / "metrics.jsonl").read_bytes() == before
    assert there(folder, "whole") == ["step-12", "step-9"]


def test_a_checkpoint_is_a_model_folder(folder, whole):
    step = folder / "runs" / "whole" / "checkpoints" / "step-12"
    assert TTTForCausalLM.from_pretrained(step).config.hidden_size == 16
    assert (step / "model.safetensors").read_bytes() == whole[1]
    assert yaml.safe_load((step / "config.yaml").read_text())["train"]["steps"] == 12
    done = run(folder, "run.name=from", f"model.initial_weights={step}", "train.steps=1")
    assert done.returncode == 0, done.stderr


def test_a_save_on_request_that_fails_is_tried_again(folder):
    """The disk refuses twice: the run does not say that it was saved, and ends after the third step."""
    failing = (
        "import os, signal\n"
        "from tttscale.train.checkpoint.folder import CheckpointFolder as F\n"
        "plain, left = F.commit, [2]\n"
        "def commit(self, manifest):\n"
        "    left[0] -= 1\n"
        "    if left[0] >= 0: raise OSError(28, 'No space left on device')\n"
        "    plain(self, manifest)\n"
        "F.commit = commit\n"
        "from tttscale.train.trainer import Trainer\n"
        "step = Trainer.step\n"
        "def told(self, number, windows):\n"
        "    if number == 4: os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return step(self, number, windows)\n"
        "Trainer.step = told\n"
    )
    asked = ("run.name=refused", *SAVES, "checkpoint.every=100")
    done = tttscale("train", folder / "run.yaml", *asked, before=failing)
    assert done.returncode == 75, done.stderr
    assert done.stdout.count("WARNING: the checkpoint after step") == 2
    assert done.stdout.count("saved and ended") == 1
    assert there(folder, "refused") == ["step-6"]
    assert len(records(folder, "refused")) == 6


def patched(folder, lines, *overrides):
    """The command, with some lines of Python before it."""
    words = ("train", folder / "run.yaml", *SAVES, *overrides)
    return tttscale(*words, before="\n".join(lines))


NO_FINISH = [
    "from tttscale.train.recorder import RunRecorder",
    "import os",
    "RunRecorder.finish = lambda *_: os._exit(9)",
]
NO_SAVE = [
    "from tttscale.train.checkpoint.folder import CheckpointFolder as F",
    "def full(self, manifest): raise OSError(28, 'No space left on device')",
    "F.commit = full",
]


def test_older_final_weights_are_not_taken_for_those_of_more_steps(folder, whole):
    path = folder / "runs" / "stale"
    shutil.copytree(folder / "runs" / "whole", path)
    died = patched(folder, NO_FINISH, "run.name=stale", "train.steps=15")
    assert died.returncode == 70, died.stderr  # whatever the rank says that no table has
    assert not (path / "final").exists()
    assert (path / "final-replaced-1" / "model.safetensors").read_bytes() == whole[1]
    done = run(folder, "run.name=stale", *SAVES, "train.steps=15")
    assert done.returncode == 0, done.stderr
    saved = path / "checkpoints" / "step-15" / "model.safetensors"
    assert weights(folder, "stale") == saved.read_bytes() != whole[1]


def test_killed_before_the_first_checkpoint(folder, whole):
    rare = "checkpoint.every=10"
    stop(folder, "early", signal.SIGKILL, 3, rare)
    other = run(folder, "run.name=early", *SAVES, rare, "train.lr=2e-2")
    assert other.returncode == 64
    assert "it has no checkpoint to resume from" in other.stderr
    done = run(folder, "run.name=early", *SAVES, rare)
    assert done.returncode == 0, done.stderr
    assert records(folder, "early") == whole[0]
    assert weights(folder, "early") == whole[1]
    assert read_metrics(folder / "runs" / "early" / "metrics-replaced.jsonl")[0]["step"] == 1


def test_a_last_checkpoint_that_cannot_be_written_does_not_keep_the_weights_back(folder, whole):
    done = patched(folder, NO_SAVE, "run.name=unsaved", "checkpoint.every=12")
    assert done.returncode == 0, done.stderr
    assert "the final weights are written all the same" in done.stdout
    assert weights(folder, "unsaved") == whole[1]


def test_a_start_that_fails_changes_nothing(folder, whole, monkeypatch):
    """Asked to go back, and kept from its first step: nothing is moved yet."""
    shutil.copytree(folder / "runs" / "whole", folder / "runs" / "kept")
    monkeypatch.setenv("CXX", "no-such-compiler")
    words = ["checkpoint.resume=9", "train.compile=true", "train.steps=13"]
    done = run(folder, "run.name=kept", *SAVES, *words)
    assert done.returncode == 69
    assert there(folder, "kept") == ["step-12", "step-9"]
    assert records(folder, "kept") == whole[0]
    assert weights(folder, "kept") == whole[1]


def test_what_was_read_already_cannot_be_left_out(folder, whole):
    shutil.copytree(folder / "runs" / "whole", folder / "runs" / "skip")
    go_on = ["run.name=skip", *SAVES, "train.steps=14"]
    done = run(folder, *go_on, "data.skip_steps=[2-3]")
    assert done.returncode == 66
    assert "among the 12 steps of data that it has read or left out by step 12" in done.stderr
    done = run(folder, *go_on, "data.skip_steps=[13]")
    assert done.returncode == 0, done.stderr
    assert "data.skip_steps = [13] from here on, was []" in done.stdout


@pytest.mark.parametrize("lost", ["manifests", "folder"])
def test_lost_checkpoints_are_no_reason_to_start_again(folder, whole, lost):
    """Between its last checkpoint and its end: all of it would be trained again, over what is left."""
    path = folder / "runs" / f"lost-{lost}"
    shutil.copytree(folder / "runs" / "whole", path)
    shutil.rmtree(path / "final")
    if lost == "folder":
        shutil.rmtree(path / "checkpoints")
    for manifest in path.glob("checkpoints/*/checkpoint.json"):
        manifest.unlink()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    done = run(folder, f"run.name=lost-{lost}", *SAVES)
    assert done.returncode == 66, done.stdout
    assert "no checkpoint to resume from, but " in done.stderr
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
