"""The hub is found in the place of a rank that ended, by a process of its own: real stores and processes."""

import os
import threading
import time
from contextlib import suppress
from datetime import timedelta

import pytest

from tests.ranks import free_port
from tttscale.cluster.ranks import Ranks
from tttscale.comm import meeting
from tttscale.errors import LaunchError
from tttscale.supervise.page import Page
from tttscale.supervise.place import Place
from tttscale.supervise.seeker import Seeker

PLACE = Place(("127.0.0.1",), 4321, "t" * 32)
LIMIT_SECONDS = 120


@pytest.fixture
def environ(monkeypatch):
    """As three ranks started by hand have it; this process says whose place the seeker takes."""
    port = free_port()

    def take(rank):
        for name in list(os.environ):
            if name.startswith(("SLURM_", "OMPI_", "PMI", "TORCHELASTIC_")):
                monkeypatch.delenv(name)
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("MASTER_PORT", port)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        return port

    return take


def found_by(seeker):
    for _ in range(LIMIT_SECONDS * 10):
        if (text := seeker.poll(0.0)) is not None:
            return text
        time.sleep(0.1)
    pytest.fail("it looks without end")


def wait_at_the_meeting(rank, port, seconds):
    with suppress(LaunchError):
        meeting.meet(
            Ranks(rank, 3, rank, 3, "127.0.0.1", port, "environment"), timedelta(seconds=seconds)
        )


def test_a_rank_that_ended_is_stood_in_for(environ, monkeypatch):
    """Rank 0 is at the meeting; rank 2's supervisor hears where to report that it is dead."""
    port = environ(2)
    monkeypatch.setattr(Page, "own", Page())
    Page.own.say("hub", PLACE.text())
    meets = threading.Thread(target=wait_at_the_meeting, args=(0, port, 15))
    meets.start()
    seeker = Seeker("", 0.0)
    try:
        assert Place.of(found_by(seeker)) == PLACE
    finally:
        seeker.close()
        meets.join(LIMIT_SECONDS)


def test_rank_0_that_ended_is_stood_in_for(environ, monkeypatch):
    """Rank 1 comes to the meeting and hears of rank 0's supervisor, though rank 0 is dead."""
    port = environ(0)
    monkeypatch.setattr(Page, "own", Page())
    seeker = Seeker(PLACE.text(), 0.0)
    try:
        assert Place.of(found_by(seeker)) == PLACE
        meets = threading.Thread(target=wait_at_the_meeting, args=(1, port, 2))
        meets.start()
        for _ in range(LIMIT_SECONDS * 10):
            if Page.own.text("hub"):
                break
            time.sleep(0.1)
        assert Place.of(Page.own.text("hub")) == PLACE
    finally:
        seeker.close()
        meets.join(LIMIT_SECONDS)


def test_there_is_no_meeting(environ):
    environ(1)
    seeker = Seeker("", 0.0)
    try:
        assert found_by(seeker) == ""
    finally:
        seeker.close()
