"""`tttscale checkpoint list|show|verify`, as a user calls it."""

import json

import pytest

from tests.warm import tttscale
from tttscale.config import dump_config


@pytest.fixture
def folder(run, small):
    """A run's folder with checkpoints of steps 1 and 2."""
    folder = run.root.parent
    (folder / "config.yaml").write_text(dump_config(small))
    (run.path(2) / "config.yaml").write_text(dump_config(small))
    return folder


def said(*words, code=0):
    done = tttscale("checkpoint", *words)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_list(folder, run):
    out, _ = said("list", folder)
    head, *rows = out.splitlines()
    assert head.split() == ["step", "written", "size", "tokens", "loss", "files"]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert all(row.endswith("complete") for row in rows)
    run.partial(3).mkdir()
    (run.path(1) / "model.safetensors").unlink()
    out, _ = said("list", folder)
    assert "1: " in out
    assert "model.safetensors: No such file" in out
    assert "step-3.partial: is being written, or was left by a run that was killed" in out
    found = json.loads(said("list", folder, "--json")[0])
    assert [one["step"] for one in found["checkpoints"]] == [1, 2]
    assert found["unfinished"] == ["step-3.partial"]


def test_show(folder):
    out, _ = said("show", folder)
    assert "step-2" in out
    assert "by 1 rank(s), ZeRO stage 1, parallel.sequence 1" in out
    assert "the run's config.yaml is as it was then" in out
    out, _ = said("show", folder, "--step", "1")
    assert "configurations are not compared" in out
    assert json.loads(said("show", folder, "--json")[0])["listed"]["step"] == 2
    _, error = said("show", folder, "--step", "9", code=66)
    assert "has checkpoints of steps 1, 2" in error


def test_verify(folder, run):
    out, _ = said("verify", folder, "--all")
    assert out.count(": whole (") == 2
    path = run.path(1) / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"step 1", b"step 9"))
    assert said("verify", folder)[0].count(": whole (") == 1
    out, error = said("verify", folder, "--all", code=66)
    assert "step-1: damaged" in out
    assert f"{path} is damaged: its content is not what was written" in error
    out, _ = said("verify", folder, "--step", "1", "--json", code=66)
    (found,) = json.loads(out)["checkpoints"]
    assert str(path) in found["problems"][0]
    assert "give one of them" in said("verify", folder, "--all", "--step", "1", code=64)[1]


def test_a_missing_folder(tmp_path):
    for verb in ("list", "show", "verify"):
        _, error = said(verb, tmp_path / "runs" / "typo", code=66)
        assert "is no folder. Give a run's folder" in error
