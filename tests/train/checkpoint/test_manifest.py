"""`checkpoint.json`: names, versions and counters that no run can have."""

from importlib.metadata import PackageNotFoundError

import pytest

from tests.train.checkpoint.test_folder import sealed
from tttscale import __version__
from tttscale.errors import CheckpointError
from tttscale.train.checkpoint import manifest
from tttscale.train.checkpoint.manifest import read_manifest


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


def test_versions_of_packages_that_are_installed_nowhere(monkeypatch):
    """A source tree that is run as it lies there saves checkpoints like any other."""

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(manifest, "version", not_installed)
    found = manifest.versions()
    assert found["tttscale"] == __version__
    assert found["torch"] == found["deepspeed"] == "unknown"
