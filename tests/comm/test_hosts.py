"""Ranks of two hosts find each other whatever their names are, or end with one line on all ranks."""

import os
import time
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore

from tests.comm.namespaces import enter, missing, run, two_hosts
from tests.comm.test_first_store import listening
from tests.ranks import run_ranks, values
from tttscale.comm import first_store, reach
from tttscale.comm import mesh as meshes
from tttscale.errors import LaunchError

REASON = missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

HOST_OF = [0, 0, 1]
ONE = [("10.77.0.1/24", "10.77.0.2/24")]
TWO = [*ONE, ("10.78.0.1/24", "10.78.0.2/24")]
KNOWN = ["10.77.0.1 hosta", "10.77.0.2 hostb"]


def on_hosts(ranks, holders, environs, seconds=None):
    """Join the job on this rank's host: what becomes of it, and where rank 0 listens."""
    place = HOST_OF[ranks.rank]
    enter(holders[place])
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TTTSCALE_JOB_SECRET"):
        os.environ.pop(name, None)
    os.environ.update(environs[place])
    reach.REACH_SECONDS = first_store.ANSWER_SECONDS = 2.0
    if "TORCHELASTIC_USE_AGENT_STORE" in environs[place] and ranks.rank == 0:
        agent = TCPStore("127.0.0.1", ranks.master_port, is_master=True, wait_for_workers=False)
        assert agent.port
    if seconds is not None:
        meshes.TIMEOUT = timedelta(seconds=seconds)
    local = [rank for rank, host in enumerate(HOST_OF) if host == place]
    mine = replace(
        ranks,
        local_rank=local.index(ranks.rank),
        local_world_size=len(local),
        master_addr="hosta",
    )
    began = time.monotonic()
    try:
        mesh = meshes.start(mine, ranks.world_size, torch.device("cpu"))
    except LaunchError as error:
        return str(error), time.monotonic() - began
    total = mesh.sum_on_cpu(torch.full((3,), float(ranks.rank))).tolist()
    names = os.environ.get("GLOO_SOCKET_IFNAME"), os.environ.get("NCCL_SOCKET_IFNAME")
    where = listening(ranks.master_port) if ranks.rank == 0 else None
    mesh.gather_texts("rank 0's store is needed until here")
    return names, total, where


@pytest.mark.parametrize(
    ("hosts_files", "networks", "interface", "listens"),
    [
        ((KNOWN, KNOWN), ONE, "eth0", {"10.77.0.1"}),
        # Debian's and Ubuntu's own line.
        ((["127.0.1.1 hosta"], ["127.0.1.1 hostb", KNOWN[0]]), ONE, "eth0", None),
        # Neither host knows its own name.
        (([], KNOWN[:1]), ONE, "eth0", None),
        ((["fd00:77::1 hosta"],) * 2, [("fd00:77::1/64", "fd00:77::2/64")], "eth0", None),
        ((["10.78.0.1 hosta"], ["127.0.1.1 hostb", "10.78.0.1 hosta"]), TWO, "eth1", {"10.78.0.1"}),
        ((["127.0.1.1 hosta"], ["10.77.0.2 hostb", "10.78.0.1 hosta"]), TWO, "eth1", None),
    ],
    ids=["known", "debian", "no name", "IPv6", "two networks", "two networks, debian"],
)
def test_ranks_find_each_other(tmp_path, hosts_files, networks, interface, listens):
    with two_hosts(tmp_path, hosts_files, networks) as holders:
        found = values(run_ranks(on_hosts, 3, holders, [{}, {}], timeout_seconds=120))
    for names, total, _ in found:
        assert names == (interface, f"={interface}")
        assert total == [3.0] * 3
    if listens is not None:
        assert found[0][2] == listens


def test_ranks_of_torchrun_meet_at_its_agent(tmp_path):
    """Which listens at all addresses before rank 0 is there."""
    files = (["127.0.1.1 hosta"], ["127.0.1.1 hostb", KNOWN[0]])
    environs = [{"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "none"}] * 2
    with two_hosts(tmp_path, files, ONE) as holders:
        found = values(run_ranks(on_hosts, 3, holders, environs, timeout_seconds=120))
    for names, total, _ in found:
        assert names == ("eth0", "=eth0")
        assert total == [3.0] * 3


def one_line(found, *words):
    lines = {line for line, _ in found}
    assert len(lines) == 1, lines  # the same on all ranks
    assert max(seconds for _, seconds in found) < 60
    line = lines.pop()
    assert "\n" not in line
    for word in words:
        assert word in line, line


def test_a_network_that_does_not_join_the_hosts(tmp_path):
    """The address is there, and what is sent to it is lost without a word."""
    wrong = [{"GLOO_SOCKET_IFNAME": "eth1"}] * 2
    with two_hosts(tmp_path, (KNOWN, KNOWN), TWO) as holders:
        lost = "ip neigh add 10.78.0.2 lladdr 02:00:00:00:00:99 dev eth1"
        run(holders[0], *lost.split())
        found = run_ranks(on_hosts, 3, holders, wrong, timeout_seconds=120)
    one_line(
        found,
        "host hosta (rank 0, interface eth1, 10.78.0.1) does not reach host hostb (rank 2, interface eth1, ",
        "timed out",
        "GLOO_SOCKET_IFNAME",
        "NCCL_SOCKET_IFNAME",
    )


def test_the_loopback_interface_joins_no_hosts(tmp_path):
    """Its address is the same on both."""
    wrong = [{"GLOO_SOCKET_IFNAME": "lo"}] * 2
    with two_hosts(tmp_path, (KNOWN, KNOWN), ONE) as holders:
        found = run_ranks(on_hosts, 3, holders, wrong, timeout_seconds=120)
    one_line(found, "interface lo, 127.0.0.1) does not reach host", "GLOO_SOCKET_IFNAME")


def test_an_interface_that_only_one_host_has(tmp_path):
    wrong = [{}, {"GLOO_SOCKET_IFNAME": "ib0"}]
    with two_hosts(tmp_path, (KNOWN, KNOWN), ONE) as holders:
        found = run_ranks(on_hosts, 3, holders, wrong, timeout_seconds=120)
    one_line(found, "rank 2: GLOO_SOCKET_IFNAME=ib0: host hostb has no interface", "eth0 10.77.0.2")


def test_an_address_of_another_host(tmp_path):
    files = (["10.77.0.2 hosta"], ["10.77.0.2 hosta"])
    with two_hosts(tmp_path, files, ONE) as holders:
        found = run_ranks(on_hosts, 3, holders, [{}, {}], 4, timeout_seconds=120)
    line, _ = found[0]
    assert line.startswith(
        "rank 0 on hosta is not reached as MASTER_ADDR=hosta, which is no address"
    )
    assert "Set MASTER_ADDR" in line
    for rank, own in ((1, "(interface eth0, 10.77.0.1)"), (2, "(interface eth0, 10.77.0.2)")):
        line, _ = found[rank]
        assert own in line, line
        assert "MASTER_ADDR" in line
