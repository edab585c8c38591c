"""Every way in which the ranks of a job may fail to find each other is one error in one line."""

import os
import socket
import threading
from datetime import timedelta

import pytest
import torch

from tests.ranks import free_port, run_ranks
from tttscale.cluster.ranks import Ranks
from tttscale.comm import meeting
from tttscale.comm import mesh as meshes
from tttscale.errors import LaunchError

CPU = torch.device("cpu")


def started(ranks, port, world_sizes, numbers, seconds):
    """What becomes of a start; each process is told a rank and a world size."""
    meeting.RESOLVE_SECONDS, meeting.ANSWER_SECONDS = 1.0, 3.0
    meshes.TIMEOUT = timedelta(seconds=seconds)
    place = ranks.rank
    told = Ranks(
        numbers[place], world_sizes[place], 0, world_sizes[place], "127.0.0.1", port, "environment"
    )
    try:
        meshes.start(told, 1, CPU)
    except LaunchError as error:
        return str(error)
    return "no error"


def all_started(world_sizes, numbers, seconds=6):
    return run_ranks(
        started, len(numbers), free_port(), world_sizes, numbers, seconds, timeout_seconds=120
    )


def one_line(message, *words):
    assert "\n" not in message
    assert len(message) < 600
    assert socket.gethostname() in message or "ranks have not come" in message
    for word in words:
        assert word in message


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(meeting, "RESOLVE_SECONDS", 0.5)
    monkeypatch.setattr(meeting, "ANSWER_SECONDS", 2.0)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)


def met(rank, port, address="127.0.0.1", seconds=2.0):
    with pytest.raises(LaunchError) as error:
        meeting.meet(Ranks(rank, 2, rank, 2, address, port, "openmpi"), timedelta(seconds=seconds))
    return str(error.value)


@pytest.fixture
def taken():
    """A port at which somebody else listens, who answers in another language."""
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        done = threading.Event()

        def answer():
            while not done.is_set():
                other, _ = s.accept()
                with other:
                    other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield s.getsockname()[1]
        done.set()


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
    for rank in (0, 1):
        message = met(rank, 29500, "node17.cluster")
        one_line(message, "MASTER_ADDR=node17.cluster", "Name or service not known", f"rank {rank}")


def test_nobody_at_the_port(quick):
    port = free_port()
    one_line(met(1, port), f"reaches nobody at 127.0.0.1:{port}", "refused", "MASTER_PORT")


def test_ranks_that_do_not_come(quick):
    one_line(
        met(0, free_port()), "1 of 2 ranks have not come to 127.0.0.1:", ": 1. ", "WORLD_SIZE=2"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen at any port")
def test_a_port_that_only_root_may_take(quick):
    one_line(met(0, 80), "permission denied", "above 1023")


def test_another_number_of_processes():
    first, second = all_started([2, 3], [0, 1])
    one_line(second, "WORLD_SIZE=3", "rank 0 at 127.0.0.1:", "as one of 2")
    one_line(first, "1 of 2 ranks have not come")


def test_the_same_rank_twice():
    messages = all_started([3, 3, 3], [0, 1, 1])
    assert sum("there is another rank 1" in message for message in messages[1:]) == 1
    for message in messages:
        one_line(message)


def test_all_there():
    assert all_started([3, 3, 3], [0, 1, 2], seconds=60) == ["no error"] * 3
