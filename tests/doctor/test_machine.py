"""This host: disks, memory, cores, open files; what they would say injected."""

from collections import namedtuple

import pytest

from tests.doctor.found import GIB, levels, ranks
from tttscale.doctor import machine

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "level"), [(GIB // 2, "problem"), (5 * GIB, "warning"), (50 * GIB, "ok")]
)
def test_room_on_a_disk(free, level, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(100 * GIB, 0, free))
    (found,) = machine.disk("runs", tmp_path / "not" / "yet")
    assert (found.level, found.what.startswith("runs: ")) == (level, True)
    assert bool(found.remedy) == (level != "ok")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (found,) = machine.disk("runs", tmp_path / "file" / "runs")
    assert (found.level, "cannot be written" in found.what) == ("problem", True)


def test_small_shared_memory(tmp_path, monkeypatch):
    assert levels(machine.shared_memory(tmp_path / "none")) == ["warning"]
    for free, level in ((64 << 20, "warning"), (8 * GIB, "ok")):
        monkeypatch.setattr(
            machine.shutil, "disk_usage", lambda _, free=free: Usage(8 * GIB, 0, free)
        )
        (found,) = machine.shared_memory(tmp_path)
        assert (found.level, "--shm-size" in found.remedy) == (level, level == "warning")


@pytest.mark.parametrize(
    ("local", "mine", "threads", "omp", "level"),
    [
        (1, 8, None, "", "ok"),
        (4, 8, None, "2", "ok"),
        (4, 8, None, "4", "warning"),
        (4, 8, 4, "1", "warning"),
        (4, 2, None, "1", "warning"),
        (4, 2, None, "2", "ok"),  # each rank has cores of its own
    ],
)
def test_cores_against_threads(local, mine, threads, omp, level, monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8 if omp != "1" or threads else 2)
    environ = {"OMP_NUM_THREADS": omp} if omp else {}
    assert levels(machine.cores(ranks(local), threads, environ, mine)) == [level]


def test_open_files():
    assert levels(machine.open_files(ranks(2), 256)) == ["warning"]
    assert levels(machine.open_files(ranks(2), 4096)) == ["ok"]
    assert levels(machine.open_files(ranks(1024), 4096)) == ["warning"]
    assert levels(machine.open_files(ranks(2), -1)) == ["ok"]
