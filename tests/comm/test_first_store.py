"""Reaching rank 0's store: what is in the way is one line that names the remedy."""

import os
import socket
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests.comm.test_meeting import met, one_line
from tests.ranks import free_port
from tttscale.cluster.ranks import Ranks
from tttscale.comm import first_store


def test_a_port_that_is_taken(quick, taken):
    message = met(0, taken)
    one_line(
        message, f"cannot listen at port {taken} (MASTER_PORT)", "Set MASTER_PORT to a free port"
    )


def test_somebody_else_at_the_port(quick, taken):
    one_line(met(1, taken), "that is not rank 0", f"127.0.0.1:{taken}", "Set MASTER_PORT")


def test_a_host_that_nobody_knows(quick, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = met(1, 29500, "node17.cluster")
    one_line(message, "MASTER_ADDR=node17.cluster", "Name or service not known", "rank 1")
    # Rank 0 may be on a host that does not know its own name; the others decide.
    one_line(met(0, free_port(), "node17.cluster"), "1 of 2 ranks have not come to node17.cluster")


def test_nobody_at_the_port(quick):
    port = free_port()
    one_line(met(1, port), f"reaches nobody at 127.0.0.1:{port}", "refused", "MASTER_PORT")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen at any port")
def test_a_port_that_only_root_may_take(quick):
    one_line(met(0, 80), "permission denied", "above 1023")


def test_a_program_that_never_answers(quick):
    """torch's own client of the store would wait for it without end."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        one_line(met(1, port), "that is not rank 0", "does not answer", "Set MASTER_PORT")


def test_the_store_of_another_program(quick):
    """Such as torchrun's, which has taken the port that this job's rank 0 could not get."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    one_line(met(1, store.port), "that is not rank 0", "Set MASTER_PORT")


def listening(port):
    """At which addresses this host listens at `port`, IPv4."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {
        socket.inet_ntoa(bytes.fromhex(a)[::-1]) for a, number in found if int(number, 16) == port
    }


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells where it listens")
def test_rank_0_listens_at_the_loopback_interface_where_all_ranks_are_on_one_host(quick):
    port = free_port()
    ranks = Ranks(0, 2, 0, 2, "no-such-host.invalid", port, "slurm", one_host=True)
    store, _ = first_store.open_store(ranks, 0.0)
    assert listening(port) == {"127.0.0.1"}
    del store
