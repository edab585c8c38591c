"""Supervisors of one host find the hub by a name that they derive; real sockets and processes."""

import os
import secrets
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from tttscale.cluster.ranks import Ranks
from tttscale.supervise import beacon
from tttscale.supervise.beacon import Beacon, Call, beacon_name

RANKS = Ranks(0, 4, 0, 4, "127.0.0.1", 29500, "environment", True)


@pytest.fixture
def name():
    return "\0tttscale-test-" + secrets.token_hex(8)


def test_it_tells_all_who_call(name):
    calls = [Call(name) for _ in range(100)]
    assert [call.poll(0.0) for call in calls] == [""] * 100
    told = Beacon(name, "where it is")
    assert [call.poll(0.1) for call in calls] == [""] * 100  # not again so soon
    for call in calls:
        call.poll(1.0)
    told.poll(1.0)
    told.poll(1.1)
    assert [call.poll(1.1) for call in calls] == ["where it is"] * 100
    told.close()
    for call in calls:
        call.close()


def test_a_name_that_is_taken_is_tried_again(name):
    first = Beacon(name, "first")
    second, call = Beacon(name, "second"), Call(name)
    second.poll(0.0)
    first.close()
    second.poll(0.1)
    assert call.poll(0.2) == ""
    second.poll(1.0)
    call.poll(1.0)
    second.poll(1.1)
    assert call.poll(1.2) == "second"
    second.close()
    call.close()


def test_one_that_calls_and_leaves(name):
    told = Beacon(name, "where it is")
    call = Call(name)
    call.poll(0.0)
    call.close()
    told.poll(0.0)
    told.close()


def test_it_is_gone_before_it_tells(name):
    told, call = Beacon(name, "where it is"), Call(name)
    call.poll(0.0)
    told.close()
    assert call.poll(0.1) == ""
    assert call.poll(1.0) == ""


def test_another_users_process_is_told_nothing(name, monkeypatch):
    monkeypatch.setattr(beacon, "_is_own_users", lambda peer: False)
    told, call = Beacon(name, "where it is"), Call(name)
    assert call.poll(0.0) == ""
    assert call._caller is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.connect(name)
        told.poll(0.0)
        assert other.recv(100) == b""
    told.close()


def test_the_name_is_this_jobs(monkeypatch):
    own = beacon_name(RANKS, {})
    assert own == beacon_name(replace(RANKS, rank=3, local_rank=3), {})
    others = [
        beacon_name(replace(RANKS, master_port=29501), {}),
        beacon_name(replace(RANKS, master_addr="node1"), {}),
        beacon_name(replace(RANKS, world_size=8), {}),
        beacon_name(RANKS, {"TORCHELASTIC_RESTART_COUNT": "1"}),
    ]
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(beacon, "launcher_links", lambda pid: [])
    others.append(beacon_name(RANKS, {}))
    assert own not in others
    assert len(set(others)) == 5


def test_processes_of_one_parent_derive_the_same_name():
    code = (
        "import sys; from tttscale.cluster.ranks import Ranks\n"
        "from tttscale.supervise.beacon import beacon_name\n"
        "rank = int(sys.argv[1])\n"
        "print(repr(beacon_name(Ranks(rank, 2, rank, 2, '127.0.0.1', 29500, 'x', True), {})))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(rank)], capture_output=True, check=True
        ).stdout
        for rank in range(2)
    }
    assert len(found) == 1
