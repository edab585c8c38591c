"""What a job's ranks say of themselves, compared."""

import socket
from types import SimpleNamespace

from tests.doctor.found import levels, ranks
from tttscale.doctor import job


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
