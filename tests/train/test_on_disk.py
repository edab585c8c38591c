"""A machine that stops takes nothing with it that a run relies on: what is on disk, and when."""

import json
import os
from pathlib import Path

import pytest

from tests import disk
from tests.warm import tttscale
from tttscale.files import replaced
from tttscale.observe import MetricsLog

STEPS, EVERY = 4, 2


@pytest.fixture(scope="module")
def run(folder):
    """A run's folder, and all that it asked of the disk."""
    log = folder / "disk.jsonl"
    asked = (f"train.steps={STEPS}", f"checkpoint.every={EVERY}", "run.name=watched")
    before = f"from tests.disk import watch; watch({str(log)!r})"
    done = tttscale("train", folder / "run.yaml", *asked, before=before)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "watched", disk.seen(log)


def test_what_gets_its_name_is_on_disk(run):
    """All but plots, which can be drawn again."""
    folder, notes = run
    assert not [line for line in disk.moved_too_early(notes) if not line.endswith(".png")]
    files = [path for path in (folder / "checkpoints").rglob("*") if path.is_file()]
    given = disk.names_given(notes)
    assert len(files) > 2 * 4
    assert [given.get(path.stat().st_ino) for path in files] == [str(path) for path in files]


def test_a_checkpoint_comes_after_the_metrics_that_it_continues(run):
    """And the folder that lists it is on disk, too."""
    folder, notes = run
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    for step in range(EVERY, STEPS + 1, EVERY):
        path = folder / "checkpoints" / f"step-{step}"
        (at,) = (i for i, n in enumerate(notes) if n.get("to") == str(path))
        metrics = [n["bytes"] for n in notes[:at] if n["path"].endswith("/metrics.jsonl")]
        assert metrics
        assert metrics[-1] >= sum(map(len, lines[:step]))
        after = [n["path"] for n in notes[at:] if n["call"] == "sync"]
        assert str(path.parent) in after


def test_final_weights_are_never_half_there(run):
    """Their names are given to them, alone or with their folder, when they are whole and on disk."""
    folder, notes = run
    given = disk.names_given(notes)
    for name in ("model.safetensors", "config.json"):
        path = folder / "final" / name
        assert given.get(path.stat().st_ino) == str(path)
    assert not [line for line in disk.moved_too_early(notes) if "/final" in line]
    (at,) = (i for i, n in enumerate(notes) if n.get("to") == str(folder / "final"))
    partial, inside = notes[at]["path"], [n["inode"] for n in notes[:at] if "inode" in n]
    assert (folder / "final").stat().st_ino in inside, f"what {partial} lists is on disk"
    assert str(folder) in [n["path"] for n in notes[at:] if n["call"] == "sync"]


def test_a_replaced_file_is_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    for name in ("fsync", "fdatasync", "replace", "rename"):
        monkeypatch.setattr(os, name, getattr(os, name))  # put back in the end
    disk.watch(tmp_path / "log")
    path = tmp_path / "file"
    path.write_text("old")
    with replaced(path) as file:
        file.write(b"a" * 100_000)
        assert path.read_text() == "old"
        file.write(b"b")
    notes = disk.seen(tmp_path / "log")
    assert disk.moved_too_early(notes) == []
    assert disk.names_given(notes)[path.stat().st_ino] == str(path)
    assert path.stat().st_size == 100_001


def test_metrics_are_on_disk_when_they_are_said_to_be(tmp_path, monkeypatch):
    for name in ("fsync", "fdatasync", "replace", "rename"):
        monkeypatch.setattr(os, name, getattr(os, name))
    disk.watch(tmp_path / "log")
    with MetricsLog(tmp_path / "metrics.jsonl") as metrics:
        for step in (1, 2):
            metrics.write({"step": step})
            metrics.sync()
            last = disk.seen(tmp_path / "log")[-1]
            assert Path(last["path"]).name == "metrics.jsonl"
            text = (tmp_path / "metrics.jsonl").read_bytes()[: last["bytes"]].decode()
            assert json.loads(text.splitlines()[-1]) == {"step": step}
