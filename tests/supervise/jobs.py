"""A job's supervisors in this process: real sockets on loopback, pages without ranks, a clock by hand."""

import os
import time
from dataclasses import replace

from tttscale.cluster.ranks import Ranks
from tttscale.supervise.job import Job
from tttscale.supervise.page import Page, Phase
from tttscale.supervise.verdict import Ended


class Task:
    def __init__(self, sequence=0, chunk=0):
        self.sequence, self.chunk = sequence, chunk


class Clock:
    """Seconds that pass when a test says so; pages take them for the host's."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Supervised:
    """A rank's page and its supervisor."""

    def __init__(self, rank, world, clock, hosts=False):
        self.page, self.said, self.sought = Page(), [], []
        # Another port hides a rank from the beacon, as another host does, and one test from those beside it.
        port = 10000 + os.getpid() * 97 % 40000 + rank * hosts
        ranks = Ranks(rank, world, rank, world, "127.0.0.1", port, "environment", not hosts)
        self.job = Job(self.page, ranks, clock=clock, say=self.said.append, seek=self.seek)
        self.rank, self.verdict, self.gone = rank, None, False

    def seek(self, own, now):
        """No other process; what it would have been asked."""
        self.sought.append(own)

    def poll(self):
        if self.verdict is None and not self.gone:
            self.verdict = self.job.poll()

    def fail(self, code, cause=""):
        last = self.page.read()
        last = replace(last, at=0.0, phase_at=0.0)
        self.job.ended(Ended(self.rank, "here", code, cause, last))


class Star:
    """All supervisors of a job."""

    def __init__(self, world, monkeypatch, hosts=False):
        self.clock = Clock()
        monkeypatch.setattr(time, "monotonic", self.clock)
        self.all = [Supervised(rank, world, self.clock, hosts) for rank in range(world)]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for one in self.all:
            one.job.close()

    def __getitem__(self, rank):
        return self.all[rank]

    def meet(self):
        """Hand on the hub's place, as the ranks do, and let all supervisors connect."""
        text = self.all[0].page.text("hub")
        for one in self.all[1:]:
            one.page.say("hub", text)
        self.go(2.0)
        for one in self.all:
            one.page.enter(Phase.STEP, 3)

    def go(self, seconds, each=None, by=0.1):
        """Let time pass until then, or until all have a verdict."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += by
            if each is not None:
                each()
            for one in self.all:
                one.poll()
            if all(one.verdict or one.gone for one in self.all):
                return

    def verdict(self):
        """The verdict that all who are left share."""
        found = {one.verdict for one in self.all if not one.gone}
        assert len(found) == 1, found
        return found.pop()
