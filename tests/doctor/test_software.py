"""Single checks, with what they would find injected."""

import importlib.metadata
import socket
import subprocess
from collections import namedtuple
from types import SimpleNamespace

import pytest

from tttscale.cluster.ranks import Ranks
from tttscale.doctor import job, link, machine, software

GIB = 1 << 30
Usage = namedtuple("Usage", "total used free")


def ranks(world=1, local=None):
    return Ranks(0, world, 0, local or world, "127.0.0.1", 29500, "environment")


def levels(findings):
    return [str(finding.level) for finding in findings]


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


def test_versions_that_differ_are_named_with_their_ranks():
    same = {"torch": "2.13.0", "triton": "3.7.1", "commit": "abc", "python": "3.11.2"}
    assert levels(job.differences([same, same])) == ["ok"]
    others = [same | {"triton": "3.8.0"}, same | {"python": "3.12.0", "triton": "3.8.0"}]
    triton, python = job.differences([same, *others])
    assert (triton.level, python.level) == ("problem", "warning")
    assert triton.what == "triton differs between ranks: 3.7.1 on ranks 0; 3.8.0 on ranks 1, 2"


def test_clocks_that_are_apart():
    assert levels(job.clocks([0.0, 1e-4], ["a", "a"])) == ["ok"]
    (found,) = job.clocks([0.0, 0.001, -3.0, -3.001], ["a", "a", "b", "b"])
    assert (found.level, "the clock of b is -3.00 s off" in found.what) == ("warning", True)


def test_ranks_that_would_share_a_gpu():
    places = [job.Place(r, "a", 0, "cpu", "10.0.0.1", "eth0") for r in range(2)]
    assert levels(job.launch(ranks(2), places)) == ["ok", "problem"]


def test_slow_links_are_named():
    hosts = ["a", "a", "b", "b"]

    def made(source, rate, latency=1e-4):
        return link.Link(source, (source + 1) % 4, 1 << 20, latency, rate, "gloo")

    fine = [made(source, 1e9) for source in range(4)]
    assert list(link.slow_links(fine, hosts)) == []
    (found,) = link.slow_links([*fine[:3], made(3, 1e6)], hosts)
    assert found.what.startswith("rank 3 -> 0 (b -> a) over gloo")
    assert "GLOO_SOCKET_IFNAME" in found.remedy
    (found,) = link.slow_links([made(0, 1e9, latency=0.1), *fine[1:]], hosts)
    assert found.what.startswith("rank 0 -> 1 (a -> a)")
    ring = [link.Link(r, r + 1, 1, 1e-4, 2e8 if r == 2 else 2e9, "mpi") for r in range(4)]
    (found,) = link.slow_links(ring, ["a"] * 5)
    assert "the others of its kind 2.00GB/s" in found.what


def test_gpus(monkeypatch):
    from tttscale.doctor import gpus

    card = SimpleNamespace(name="NVIDIA H200", total_memory=140 * GIB)
    monkeypatch.setattr(gpus.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpus.torch.cuda, "get_device_properties", lambda i: card)
    assert levels(gpus.gpus(ranks(2), "auto", {})) == ["ok"]
    assert levels(gpus.gpus(ranks(4), "auto", {})) == ["ok", "problem"]
    assert levels(gpus.gpus(ranks(2), "auto", {"CUDA_DEVICE_MAX_CONNECTIONS": "1"})) == [
        "ok",
        "warning",
    ]
    monkeypatch.setattr(gpus.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(gpus.shutil, "which", lambda name: name)
    assert levels(gpus.gpus(ranks(2), "auto", {})) == ["warning"]
    assert levels(gpus.gpus(ranks(2), "cuda", {})) == ["problem"]


def test_the_address_is_that_of_the_interface_in_use(monkeypatch):
    """The own name of rank 0's host may stand for 127.0.1.1, though the job uses a network."""

    found = {
        "lo": [SimpleNamespace(family=socket.AF_INET, address="127.0.0.1")],
        "eth0": [
            SimpleNamespace(family=socket.AF_INET6, address="fe80::1%eth0"),
            SimpleNamespace(family=socket.AF_INET, address="10.0.0.7"),
        ],
    }
    monkeypatch.setattr(job.psutil, "net_if_addrs", lambda: found)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert job.place(ranks(2), "cpu")[4:] == ("127.0.0.1", "lo")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert job.place(ranks(2), "cpu")[4:] == ("10.0.0.7", "eth0")
