"""What is installed, with what the checks would find injected."""

import importlib.metadata
import subprocess

import pytest

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


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10, 9), "warning"), ((3, 14, 0), "warning"), ((3, 11, 0), "ok"), ((3, 13, 7), "ok")],
)
def test_pythons(version, level, monkeypatch):
    monkeypatch.setattr(software.sys, "version_info", version)
    (found,) = software.python()
    assert found.level == level
    assert ".".join(map(str, version)) in found.what


@pytest.mark.parametrize(
    ("there", "on_gpu", "level"),
    [(True, True, "ok"), (True, False, "ok"), (False, True, "problem"), (False, False, "ok")],
)
def test_a_compiler_is_needed_on_gpus(there, on_gpu, level, monkeypatch):
    monkeypatch.setattr(software.shutil, "which", lambda name: name if there else None)
    (found,) = software.compiler({"CXX": "clang++"}, on_gpu)
    assert (found.level, "clang++" in found.what) == (level, True)


def test_what_ranks_compare_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(software, "installed", lambda name: None if name == "triton" else "1.2")
    monkeypatch.setattr(software, "commit", lambda: None)
    found = software.versions()
    assert (found["torch"], found["triton"], found["commit"]) == ("1.2", "none", "none")
    assert {"tttscale", "python", "deepspeed"} < found.keys()


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.11.0+cu128", (2, 11, 0)), ("3.1", (3, 1)), ("5.0.0rc1", (5, 0, 0)), ("dev", ())],
)
def test_versions_are_compared_by_their_numbers(version, numbers):
    assert software._numbers(version) == numbers
