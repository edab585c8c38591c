"""A checkpoint is whole or it is none: after a crash at any moment, and with any file damaged."""

import errno
import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.hostile import BAD_JSON, no_files
from tests.scan.helpers import tiny_config, tiny_model
from tests.train.small import small_config
from tttscale import __version__
from tttscale.comm.mesh import Mesh
from tttscale.errors import CheckpointError
from tttscale.scan.transport import SingleRank
from tttscale.train.checkpoint import folder as folder_module
from tttscale.train.checkpoint import manifest
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manager import CheckpointManager
from tttscale.train.checkpoint.manifest import Manifest, SavedFile, check_file, read_manifest
from tttscale.train.checkpoint.optimizer_state import MomentReader, write_moments
from tttscale.train.zero_fragments import Fragment

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


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 1 and 2."""
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for step in (1, 2):
        write(folder, step)
    return folder


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


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "step-1/model.safetensors", "optimizer-1.safetensors", ""]
)
def test_names_that_lead_elsewhere_are_never_opened(run, name):
    path = run.path(2) / "checkpoint.json"
    sealed(path, files={name: {"bytes": 3, "blake2b": "00"}})
    with pytest.raises(CheckpointError, match="files"):
        read_manifest(run.path(2))


def test_another_format_version(run):
    sealed(run.path(2) / "checkpoint.json", format_version=2)
    with pytest.raises(CheckpointError, match=r"newer tttscale \(format version 2"):
        read_manifest(run.path(2))


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


def fragment(start, *values):
    return Fragment("w", start, {k: torch.tensor(values) for k in ("exp_avg", "exp_avg_sq")})


def test_moments_from_pieces_in_any_order(tmp_path):
    write_moments(tmp_path / "a", [fragment(5, 5.0, 6.0), fragment(0, 0.0, 1.0)])
    write_moments(tmp_path / "b", [fragment(2, 2.0, 3.0, 4.0)])
    reader = MomentReader([tmp_path / "a", tmp_path / "b"])
    for start in range(7):
        for end in range(start + 1, 8):
            room = fragment(start, *[-1.0] * (end - start))
            reader.fill(room)
            assert room.moments["exp_avg_sq"].tolist() == list(range(start, end))


@pytest.mark.parametrize(("start", "missing"), [(0, 2), (1, 2), (2, 2), (4, 6), (9, 9)])
def test_moments_that_are_not_there(tmp_path, start, missing):
    write_moments(tmp_path / "a", [fragment(0, 0.0, 1.0), fragment(4, 4.0, 5.0)])
    reader = MomentReader([tmp_path / "a"])
    with pytest.raises(CheckpointError, match=f"lacks exp_avg of w from element {missing} on"):
        reader.fill(fragment(start, *[0.0] * 4))
    with pytest.raises(CheckpointError, match="lacks exp_avg of v from element 0 on"):
        reader.fill(Fragment("v", 0, fragment(0, 0.0).moments))


def test_a_file_that_is_no_moments(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="is damaged"):
        MomentReader([tmp_path / "a"])
    tiny_model(tiny_config(), torch.float32).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is damaged"):
        MomentReader([tmp_path / "model.safetensors"])


def moments(tmp_path, **tensors):
    save_file({key.replace("__", "/"): value for key, value in tensors.items()}, tmp_path / "a")
    return MomentReader([tmp_path / "a"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("w__exp_avg__-1", torch.ones(3)),
        ("w__exp_avg__01", torch.ones(3)),
        ("w__exp_avg__" + "9" * 30, torch.ones(3)),
        ("w__exp_avg__1e3", torch.ones(3)),
        ("w__exp_avg__", torch.ones(3)),
        ("w__exp_avg__٣", torch.ones(3)),
        ("w__momentum__0", torch.ones(3)),
        ("exp_avg__0", torch.ones(3)),
        ("__exp_avg__0", torch.ones(3)),
        ("w", torch.ones(3)),
        ("w__exp_avg__0", torch.tensor(1.0)),
        ("w__exp_avg__0", torch.ones(3, 1)),
        ("w__exp_avg__0", torch.ones(3, dtype=torch.float64)),
        ("w__exp_avg__0", torch.ones(3, dtype=torch.int32)),
        ("\x1b[31m", torch.ones(3)),
    ],
)
def test_tensors_that_are_no_moments(tmp_path, key, value):
    with pytest.raises(
        CheckpointError, match=rf"^{tmp_path}/a is damaged: .*is no moment of AdamW"
    ) as caught:
        moments(tmp_path, **{key: value})
    assert str(caught.value).isprintable()


def test_elements_that_two_pieces_hold(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"a is damaged: w/exp_avg/2 has elements of w/exp_avg/0"
    ):
        moments(tmp_path, w__exp_avg__0=torch.ones(3), w__exp_avg__2=torch.ones(3))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (
            "exp_avg",
            float("nan"),
            r"holds 1 values of 4 that are not finite \(the first, at \[2\], is nan\)",
        ),
        ("exp_avg", float("-inf"), "holds 1 .* is -inf"),
        ("exp_avg_sq", float("inf"), "holds 1 .* is inf"),
        ("exp_avg_sq", -1e-9, r"holds -9\.99.*e-10, a mean of squares below 0"),
    ],
)
def test_moments_that_adamw_cannot_have(tmp_path, kind, value, said):
    written = fragment(0, 0.5, 0.5, 0.5, 0.5)
    written.moments[kind][2] = value
    write_moments(tmp_path / "a", [written])
    reader = MomentReader([tmp_path / "a"])
    with pytest.raises(
        CheckpointError, match=rf"a: w/{kind}/0 {said}.* an earlier checkpoint \(checkpoint"
    ):
        reader.fill(fragment(0, *[0.0] * 4))
    reader.fill(fragment(0, 0.0, 0.0))  # each rank looks at what it reads


@pytest.mark.parametrize(
    "fields",
    [
        {"step": 0},
        {"step": -3},
        {"step": 2.0},
        {"step": True},
        {"tokens": -1},
        {"updates": 3},
        {"updates": -1},
        {"wandb_id": "../../somewhere"},
        {"wandb_id": ""},
        {"versions": {"torch": 2}},
        {"files": []},
    ],
)
def test_counters_that_no_run_can_have(run, fields):
    sealed(run.path(2) / "checkpoint.json", **fields)
    with pytest.raises(
        CheckpointError, match=rf"checkpoint\.json: damaged: ({'|'.join(fields)}|it)"
    ):
        read_manifest(run.path(2))


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
    from tttscale.train.checkpoint import manifest

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


def test_versions_of_packages_that_are_installed_nowhere(monkeypatch):
    """A source tree that is run as it lies there saves checkpoints like any other."""

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(manifest, "version", not_installed)
    found = manifest.versions()
    assert found["tttscale"] == __version__
    assert found["torch"] == found["deepspeed"] == "unknown"
