"""A checkpoint is whole or it is none: after a crash at any moment, and with any file damaged."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from tests.hostile import BAD_JSON, no_files
from tests.train.small import small_config
from tttscale.comm.mesh import Mesh
from tttscale.errors import CheckpointError
from tttscale.scan.transport import SingleRank
from tttscale.train.checkpoint import folder as folder_module
from tttscale.train.checkpoint import manifest
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manager import CheckpointManager
from tttscale.train.checkpoint.manifest import Manifest, SavedFile, check_file, read_manifest

NAMES = ("model.safetensors", "config.json", "optimizer-00000.safetensors")


class Crash(BaseException):
    """The machine stops here."""


def write(folder, step, keep=2):
    """Save as `CheckpointManager.save` does, with small files."""
    folder.prepare(step)
    files = {}
    for name in NAMES:
        path = folder.partial(step) / name
        path.write_bytes(f"{name} of step {step}".encode() * 9)
        files[name] = SavedFile.of(path)
    manifest = Manifest(step=step, tokens=1, updates=step, wandb_id=None, versions={}, files=files)
    folder.commit(manifest)
    folder.prune(keep)


def whole(folder, step):
    manifest = read_manifest(folder.path(step))
    assert set(manifest.files) == set(NAMES)
    for name, file in manifest.files.items():
        check_file(folder.path(step) / name, file)
    return manifest.step == step


class CrashAt:
    """Every call that changes the disk is counted; before the given one the machine stops."""

    def __init__(self, monkeypatch, at):
        self.left = at
        for name in ("replaced", "sync"):
            monkeypatch.setattr(
                folder_module, name, self._counted(getattr(folder_module, name), name)
            )
        for name in ("mkdir", "rename", "unlink", "rmdir"):
            monkeypatch.setattr(Path, name, self._counted(getattr(Path, name), name))

    def _counted(self, plain, name):
        def call(*args, **options):
            if self.left == 0:
                raise Crash
            self.left -= 1
            if name == "remove" and self.left == 0 and args[0].is_dir():
                for path in sorted(args[0].iterdir())[:2]:  # it stops half-way through a folder
                    path.unlink()
                raise Crash
            return plain(*args, **options)

        return call


def test_a_crash_at_any_moment_leaves_the_last_checkpoint_or_the_new_one(tmp_path):
    """Simulated: the process is gone before, or in the middle of, each change of the disk."""
    for at in range(200):
        folder = CheckpointFolder(tmp_path / f"{at}")
        for step in (1, 2):
            write(folder, step)
        with pytest.MonkeyPatch.context() as monkeypatch:
            CrashAt(monkeypatch, at)
            try:
                write(folder, 3)
                finished = True
            except Crash:
                finished = False
        steps = folder.steps()
        assert steps[0] in (2, 3)
        assert all(whole(folder, step) for step in steps)
        write(folder, 3)  # the next attempt clears what is left
        assert folder.steps() == [3, 2]
        left = {path.name for path in folder.root.iterdir()} - {"set-aside-3-1"}  # it was whole
        assert left == {"step-2", "step-3"}
        if finished:
            break
    assert finished
    assert at > 10


def choose(folder, resume="auto"):
    config = small_config()
    asked = config.checkpoint.model_copy(update={"resume": resume})
    config = config.model_copy(update={"checkpoint": asked})
    checkpoints = CheckpointManager(config, Mesh(0, 1, 1, SingleRank()), folder.root.parent)
    return checkpoints.find(), checkpoints.notices


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def swap(path):
    other = path.parent.parent / "step-1" / path.name
    shutil.copy(other, path)


HARM = {
    "flipped bit": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "of another step": swap,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
}


@pytest.mark.parametrize("name", [*NAMES, "checkpoint.json"])
@pytest.mark.parametrize("harm", HARM)
def test_harm_is_found_and_named_and_the_older_one_taken(run, name, harm):
    HARM[harm](run.path(2) / name)
    if (harm, name) == ("longer", "checkpoint.json"):  # JSON all the same, with another meaning
        (run.path(2) / name).write_text(
            (run.path(2) / name).read_text().replace('"step": 2', '"step": 3')
        )
    found, (remark,) = choose(run)
    assert found.manifest.step == 1
    assert str(run.path(2) / name) in remark
    with pytest.raises(CheckpointError, match=f"step-2/{name}"):
        choose(run, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file(run, name):
    (run.path(2) / name).unlink()
    found, (remark,) = choose(run)
    assert found.manifest.step == 1
    assert f"step-2/{name}: No such file" in remark


def test_without_a_manifest_it_is_none(run):
    (run.path(2) / "checkpoint.json").unlink()
    found, remarks = choose(run)
    assert (found.manifest.step, remarks) == (1, [])
    with pytest.raises(CheckpointError, match=r"resume = 2: .* has checkpoints of steps 1\."):
        choose(run, 2)


def test_nothing_whole_is_an_error_and_not_a_new_start(run):
    for step in (1, 2):
        flip(run.path(step) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"none .* is whole.*step-2/model.*step-1/model"):
        choose(run)


def test_never_and_no_checkpoints(run, tmp_path):
    assert choose(run, "never") == (None, [])
    assert choose(CheckpointFolder(tmp_path / "other" / "checkpoints")) == (None, [])


def sealed(path, **fields):
    """A manifest with other fields, and the digest that goes with them."""
    from tttscale.data.store.manifest import manifest_digest

    content = json.loads(path.read_text())
    content.pop("digest")
    content |= fields
    path.write_text(json.dumps(content | {"digest": manifest_digest(content)}))


def test_only_checkpoints_are_ever_removed(run):
    for name in ("notes", "step-7-mine", "step-007", "set-aside-9-1"):
        (run.root / name).mkdir()
        (run.root / name / "checkpoint.json").write_text("mine")
    write(run, 3, keep=1)
    assert run.steps() == [3]
    assert sorted(path.name for path in run.root.iterdir()) == [
        *("notes", "set-aside-9-1", "step-007", "step-3", "step-7-mine")
    ]


def test_set_aside(run):
    write(run, 3, keep=3)
    assert [path.name for path in run.archive_after(1)] == ["set-aside-3-1", "set-aside-2-1"]
    assert run.steps() == [1]
    write(run, 2)
    assert [path.name for path in run.archive_after(1)] == ["set-aside-2-2"]


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_a_manifest_that_is_no_json_is_passed_over(run, content):
    (run.path(2) / "checkpoint.json").write_bytes(content)
    found, (remark,) = choose(run)
    assert found.manifest.step == 1
    assert f"{run.path(2)}/checkpoint.json is damaged: " in remark


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file_in_a_checkpoint_is_not_waited_for(run, name, tmp_path):
    for path in no_files(tmp_path / "strange").values():
        (run.path(2) / name).unlink()
        (run.path(2) / name).symlink_to(path)
        with pytest.raises(CheckpointError, match=f"step-2/{name}"):
            choose(run, 2)


def test_what_cannot_be_read_just_now_is_not_passed_over(run, monkeypatch):

    def refuse(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(manifest, "digest", refuse)
    with pytest.raises(CheckpointError, match="Input/output error"):
        choose(run)
    assert run.steps() == [2, 1]


def test_a_checkpoint_of_a_later_version_is_not_passed_over(run):
    sealed(run.path(2) / "checkpoint.json", format_version=2)
    with pytest.raises(CheckpointError, match="written by a newer tttscale"):
        choose(run)


def test_an_archive_behind_a_link_is_left_alone(run, tmp_path):
    archive = run.path(1).rename(tmp_path / "archive")
    run.path(1).symlink_to(archive)
    write(run, 3)
    assert run.steps() == [3, 2]
    assert (archive / "checkpoint.json").exists()
