"""Supervisors on two hosts: they find each other by any route, and notice a cable that is cut. No torch."""

import os
import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.comm.namespaces import enter, missing, run, two_hosts
from tttscale.cluster.ranks import Ranks
from tttscale.supervise.job import Job
from tttscale.supervise.page import Page, Phase
from tttscale.supervise.place import Place
from tttscale.supervise.verdict import Ended

REASON = missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

HOST_OF = [0, 0, 1]
CABLE = [("10.79.0.1/24", "10.79.0.2/24")]
LIMIT_SECONDS = 120
HOSTS_FILES = [
    # rank 0's supervisor knows its address; it does not, and listens at all
    ((["10.79.0.1 hosta"],) * 2, ("10.79.0.1",)),
    ((["127.0.1.1 hosta"], ["10.79.0.1 hosta"]), ()),
]


def supervise(rank, holder, folder, ends):
    """A rank's supervisor: connects, fails if it is the one that `ends`, and writes its verdict."""
    enter(holder)
    page = Page()
    local = HOST_OF.count(HOST_OF[rank])
    job = Job(page, Ranks(rank, 3, 0, local, "hosta", 29500, "environment"))
    if rank == 0:
        (folder / "place.new").write_text(page.text("hub"))
        (folder / "place.new").rename(folder / "place")
    page.enter(Phase.STEP, 4)
    while (verdict := job.poll()) is None:
        time.sleep(0.05)
        if not page.text("hub") and (folder / "place").exists():
            # As the meeting hands it on: the address under which this rank reached the store.
            place = Place.of((folder / "place").read_text()).with_addresses("10.79.0.1")
            page.say("hub", place.text())
        joined = rank == 0 or (job.side.spoke is not None and job.side.spoke.joined)
        if joined:
            (folder / f"joined{rank}").touch()
        if rank == ends and len(list(folder.glob("joined*"))) == 3:
            last = replace(page.read(), at=0.0, phase_at=0.0)
            job.ended(Ended(rank, f"host{'ab'[HOST_OF[rank]]}", 74, "disk full", last))
            ends = None
    (folder / f"verdict{rank}.new").write_text(verdict.line())
    (folder / f"verdict{rank}.new").rename(folder / f"verdict{rank}")
    job.close()


@contextmanager
def supervisors(folder, holders, ends=None):
    """All three, each in a process of its own, which is killed at the end."""
    with ExitStack() as stack:
        for rank, host in enumerate(HOST_OF):
            child = os.fork()
            if not child:
                try:
                    supervise(rank, holders[host], folder, ends)
                finally:
                    os._exit(0)
            stack.callback(os.waitpid, child, 0)
            stack.callback(os.kill, child, signal.SIGKILL)
        yield


def appeared(folder: Path, pattern, count=3):
    """The texts of files, once there are so many."""
    for _ in range(LIMIT_SECONDS * 10):
        found = sorted(folder.glob(pattern))
        if len(found) == count:
            return [path.read_text() for path in found]
        time.sleep(0.1)
    pytest.fail(f"{pattern}: only {found}")


@pytest.mark.parametrize(("hosts_files", "addresses"), HOSTS_FILES)
def test_a_failure_on_another_host(tmp_path, hosts_files, addresses):
    with (
        two_hosts(tmp_path, hosts_files, CABLE) as holders,
        supervisors(tmp_path, holders, ends=2),
    ):
        lines = appeared(tmp_path, "verdict?")
        assert set(lines) == {"FAILED rank=2 host=hostb phase=step step=4 cause=disk full"}
        assert Place.of((tmp_path / "place").read_text()).addresses == addresses


def test_a_cable_that_is_cut(tmp_path):
    """Nothing is closed, so only silence tells; each side says which one it has lost."""
    with (
        two_hosts(tmp_path, HOSTS_FILES[0][0], CABLE) as holders,
        supervisors(tmp_path, holders),
    ):
        appeared(tmp_path, "joined?")
        time.sleep(3)
        run(holders[1], "ip", "link", "set", "eth0", "down")
        began = time.monotonic()
        first, second, third = appeared(tmp_path, "verdict?")
        print(f"{time.monotonic() - began:.1f} seconds after the cable was cut")
        assert (
            first
            == second
            == ("FAILED rank=2 host=hostb phase=step step=4 cause=host or supervisor gone")
        )
        assert third == "FAILED rank=0 host=hosta phase=step step=4 cause=host or supervisor gone"
