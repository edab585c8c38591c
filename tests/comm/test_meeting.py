"""Every way in which the ranks of a job may fail to find each other is one error in one line."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
import torch

from tests.ranks import free_port, run_ranks
from tttscale.cluster.job_secret import job_secret
from tttscale.cluster.ranks import Ranks
from tttscale.comm import first_store, meeting
from tttscale.comm import mesh as meshes
from tttscale.errors import LaunchError
from tttscale.supervise.page import Page
from tttscale.supervise.place import Place

CPU = torch.device("cpu")


def started(ranks, port, world_sizes, numbers, seconds):
    """What becomes of a start; each process is told a rank and a world size."""
    first_store.RESOLVE_SECONDS, first_store.ANSWER_SECONDS = 1.0, 3.0
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


def met(rank, port, address="127.0.0.1", seconds=2.0):
    with pytest.raises(LaunchError) as error:
        meeting.meet(Ranks(rank, 2, rank, 2, address, port, "openmpi"), timedelta(seconds=seconds))
    return str(error.value)


def test_ranks_that_do_not_come(quick):
    one_line(
        met(0, free_port()), "1 of 2 ranks have not come to 127.0.0.1:", ": 1. ", "WORLD_SIZE=2"
    )


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


@pytest.fixture
def two_stores(monkeypatch):
    """Rank 0 and rank 1 as threads of this process, each with an environment of its own."""

    def start(port, secrets, gate=None):
        given = [
            {"TTTSCALE_JOB_SECRET": secret} if secret else {"PMIX_NAMESPACE": "prte-7@1"}
            for secret in secrets
        ]
        monkeypatch.setattr(meeting, "job_secret", lambda _, r: job_secret(given[r.rank], r))

        def one(rank):
            if rank == 1 and gate is not None:
                gate.wait(30)
            try:
                ranks = Ranks(rank, 2, rank, 2, "127.0.0.1", port, "openmpi")
                return meeting.meet(ranks, timedelta(seconds=4))
            except LaunchError as error:
                return str(error)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    return start


def test_a_stranger_is_turned_away_and_disturbs_nobody(quick, two_stores):
    port = free_port()
    found = two_stores(port, ["correct horse battery", "an other job's value"])
    one_line(found[1], "rank 1", "is turned away by rank 0", "TTTSCALE_JOB_SECRET", "MASTER_PORT")
    # The true rank 1 did not come: rank 0 says so, and who came in its place.
    one_line(found[0], "1 of 2 ranks have not come", ": 1. ", "was turned away: rank 1 on")
    for message in found:
        assert "correct horse" not in message
        assert "other job's" not in message


def test_a_secret_that_the_launcher_did_not_hand_on(quick, two_stores):
    found = two_stores(free_port(), ["correct horse battery", None])
    one_line(found[1], "here of PMIX_NAMESPACE, there of TTTSCALE_JOB_SECRET", "hand it on")


def test_a_job_with_a_secret_meets_among_strangers_that_only_connect(quick, two_stores):
    port = free_port()
    knocked, strangers = threading.Event(), []

    def knock():
        while len(strangers) < 4:
            with suppress(OSError):
                stranger = socket.create_connection(("127.0.0.1", port), 1)
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" if len(strangers) % 2 else b"")
                strangers.append(stranger)
            time.sleep(0.02)
        knocked.set()

    threading.Thread(target=knock, daemon=True).start()
    found = two_stores(port, ["correct horse battery"] * 2, knocked)
    for stranger in strangers:
        stranger.close()
    assert len(strangers) == 4
    assert [type(store).__name__ for store in found] == ["PrefixStore"] * 2


def test_who_waits_says_so_and_continues(quick, monkeypatch, capsys):
    monkeypatch.setattr(first_store, "NOTICE_SECONDS", 0.5)
    with ThreadPoolExecutor(2) as pool:  # one at a port each: neither finds the other
        list(pool.map(lambda rank: met(rank, free_port(), seconds=5), (0, 1)))
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 2, lines
    host = socket.gethostname()
    assert lines[0].startswith(f"rank 0 on {host} waits: 1 of 2 ranks have not come to 127.0.0.1:")
    assert lines[1].startswith(f"rank 1 on {host} (interface lo")
    assert ", 127.0.0.1) reaches nobody at 127.0.0.1:" in lines[1]
    assert "MASTER_PORT" in lines[1]
    assert lines[1].endswith("Still waiting.")


def with_a_page(ranks, port):
    """What a rank's supervisor reads on the page after the meeting."""
    Page.own = Page()
    if ranks.rank == 0:
        Page.own.say("hub", Place((), 4321, "t" * 32).text())
    world = ranks.world_size
    meshes.start(Ranks(ranks.rank, world, 0, world, "127.0.0.1", port, "environment"), 1, CPU)
    return Page.own.text("hub")


def test_ranks_hand_on_where_supervisors_meet():
    """Rank 0 knows the port only; how the others reached it is where they look."""
    first, *others = run_ranks(with_a_page, 3, free_port(), timeout_seconds=120)
    assert Place.of(first) == Place((), 4321, "t" * 32)
    for text in others:
        assert Place.of(text) == Place(("127.0.0.1",), 4321, "t" * 32)


def without_a_page(ranks, port):
    Page.own = Page() if ranks.rank else None
    world = ranks.world_size
    meshes.start(Ranks(ranks.rank, world, 0, world, "127.0.0.1", port, "environment"), 1, CPU)
    return "" if Page.own is None else Page.own.text("hub")


def test_without_a_supervisor_of_rank_0_none_is_told():
    assert run_ranks(without_a_page, 2, free_port(), timeout_seconds=120) == ["", ""]
