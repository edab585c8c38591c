"""What is installed, with what the checks would find injected."""

import importlib.metadata
import subprocess

from tests.doctor.found import levels
from tttscale.doctor import software


def test_packages(monkeypatch):
    def gone(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(software.importlib.metadata, "version", lambda name: "3.1.2")
    monkeypatch.setattr(software, "_minimum", lambda name: "3.1.6")
    (old,) = software.package("zarr", "stores", lambda: None)
    assert (old.level, old.remedy) == ("problem", "pip install -U zarr")
    monkeypatch.setattr(software, "_minimum", lambda name: "3.1.2")
    assert levels(software.package("zarr", "stores", lambda: None)) == ["ok"]

    def broken():
        raise OSError("libfoo.so: no such file")

    (found,) = software.package("zarr", "stores", broken)
    assert (found.level, "libfoo.so" in found.what) == ("problem", True)
    monkeypatch.setattr(software.importlib.metadata, "version", gone)
    (found,) = software.package("no_such_package", "x")
    assert found.remedy == "pip install no_such_package"
    assert levels(software.package("no_such_package", "x", needed=False)) == ["ok"]


def test_the_library_must_be_that_of_mpirun(monkeypatch):
    def said(*command, environ=None):
        return library if "-c" in command else "HYDRA build details:"

    monkeypatch.setattr(software, "_said", said)
    monkeypatch.setattr(software.shutil, "which", lambda name: f"/usr/bin/{name}")
    library = "Open MPI v5.0.11"
    assert levels(software.mpi("single", {})) == ["warning"]
    (found,) = software.mpi("pmi", {})
    assert (found.level, "MPI4PY_LIBMPI" in found.remedy) == ("problem", True)
    assert levels(software.mpi("openmpi", {})) == ["ok"]
    library = None
    assert levels(software.mpi("single", {})) == ["warning"]


def test_wandb_without_a_key(tmp_path, monkeypatch):
    monkeypatch.setattr(software, "installed", lambda name: "1.0")
    plain = {"NETRC": str(tmp_path / "netrc")}
    assert levels(software.wandb("online", None, plain)) == ["warning"]
    assert levels(software.wandb("offline", None, plain)) == ["ok"]
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password hidden1")
    (found,) = software.wandb("online", None, plain)
    assert (found.level, "hidden1" in found.what) == ("ok", False)
    monkeypatch.setattr(software, "installed", lambda name: None)
    assert levels(software.wandb("online", None, plain)) == ["warning"]
    assert levels(software.wandb("disabled", None, plain)) == ["ok"]


def test_the_commit_of_a_checkout(tmp_path):
    assert software.commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "a").write_text("a")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    of = software.commit(tmp_path)
    assert of is not None
    assert len(of) == 12
    (tmp_path / "a").write_text("b")
    assert software.commit(tmp_path) == f"{of}+"
