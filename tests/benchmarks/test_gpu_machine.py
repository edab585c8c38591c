"""A GPU round says what a machine lacks before it begins."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import machine as gpu_machine
from benchmarks.gpu.machine import card, complaint, interpreter_trouble, lacking

ROOT = Path(__file__).parents[2]


def test_nothing_is_lacking_here():
    assert complaint("check") is None
    assert complaint("train_check") is None


def test_what_is_lacking_is_named_and_how_to_bring_it(monkeypatch):
    monkeypatch.setitem(gpu_machine.NEEDED, "check", ("json", "not_there", "xml.not_there"))
    said = complaint("check")
    assert "lacks not_there, xml.not_there." in said
    assert "benchmarks/gpu/wheels.sh" in said
    assert "WHEELS=" in said


def test_a_package_whose_own_needs_are_lacking(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import not_there\n")
    (tmp_path / "too_old.py").write_text("raise RuntimeError('core 2 does not fit\\nlong story')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert lacking(["half_there", "too_old", "json"]) == {
        "half_there": "no not_there",
        "too_old": "core 2 does not fit",
    }


def test_the_scripts_end_at_once_on_a_bare_machine(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # no installed packages
    python.chmod(0o755)
    for words, what in (
        (["launch/gpu_check.sh"], "torch"),
        (["benchmarks/gpu/run.sh", "tune"], "torch"),
        (["launch/gpu_train_check.sh"], "zarr"),
    ):
        env = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "OUT": str(tmp_path / "out")}
        command = ["bash", ROOT / words[0], *words[1:]]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "this Python" in done.stderr
        assert what in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_wheels(tmp_path):
    env = {"PATH": "/usr/bin:/bin", "WHEELS": str(tmp_path)}
    command = ["bash", ROOT / "launch" / "gpu_check.sh"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "gpu/wheels.sh" in done.stderr


def test_the_card_is_what_nvidia_smi_says(tmp_path, monkeypatch):
    def says(*lines):
        tool = tmp_path / "nvidia-smi"
        tool.write_text("\n".join(["#!/bin/sh", *lines]))
        tool.chmod(0o755)
        return card()

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    names = gpu_machine._FACTS
    found = says(f"echo '{', '.join(map(str, range(len(names))))}'")
    assert found == {name: str(i) for i, name in enumerate(names)}
    old = says(
        'case "$2" in *vbios*) echo unknown field; exit 2 ;; esac', "echo 'H200, 1, 2, 3, 4'"
    )
    assert old["driver_version"] == "1"
    assert "ended with 9: no driver" in says("echo no driver", "exit 9")["nvidia-smi"]


@pytest.mark.parametrize(
    ("triton", "numpy", "fits"),
    [("3.6.0", "2.5.2", False), ("3.6.0", "2.3.5", True), ("3.7.1", "2.5.2", True)],
)
def test_the_interpreter_of_an_older_triton(triton, numpy, fits, monkeypatch):
    versions = {"triton": triton, "numpy": numpy}
    monkeypatch.setattr(gpu_machine, "version", versions.__getitem__)
    said = interpreter_trouble()
    assert said is None if fits else "needs numpy before 2.4, here is 2.5.2" in said
