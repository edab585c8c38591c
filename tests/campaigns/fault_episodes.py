"""The episodes of `tests.campaigns.faults`: which fault, where, on how many ranks, under which launcher."""

import importlib.util
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tests.campaigns.fault_hook import MESSAGE, PLACES, Place
from tttscale import codes

T = TypeVar("T")
BY_HAND = "none"
LAUNCHERS = (BY_HAND, "torchrun", "deepspeed", "mpirun", "bash")
HANGS = {"stop": "stand_still", "loop": "endless_loop", "lock": "hold_the_lock"}
"""Fault -> the function in which the rank's stacks have to show it."""
SUPERVISOR = {"kill supervisor", "kill both"}
"""Faults after which the supervisor of that rank can say nothing."""
NEEDS_SPACE = {"cut link", "disk full"}
"""Faults for which a job needs namespaces of its own, which only root may have."""
_CAUSES = {
    "kill": "killed by SIGKILL",
    "two killed": "killed by SIGKILL",
    "kill supervisor": "host or supervisor gone",
    "kill both": "host or supervisor gone",
    "kill launcher": "launcher is gone",
    "stop": r"stopped \(SIGSTOP\)",
    "loop": "no progress for|computes without end",
    "lock": "no progress for|computes without end",
    "raise": f"ArithmeticError: {re.escape(MESSAGE)} in rank",
    "disk full": "No space left on device",
    "metrics full": "No space left on device",
    "cut link": r"link between rank \d+ and rank \d+",
}
_CODES = {
    **dict.fromkeys(HANGS, codes.HANG),
    "cut link": codes.HANG,
    "raise": codes.BUG,
    "disk full": codes.DISK,
    "metrics full": codes.DISK,
}
HANG_SECONDS = 3.0
"""The key `train.hang_seconds`: the deadline in steps; elsewhere it is ten times as long."""
SHORT_HANG_SECONDS = 1.5
"""The key where a rank hangs outside of steps."""
_ELSEWHERE = 10.0
CRASH_SECONDS, AFTER_DEADLINE_SECONDS = 10.0, 5.0
_DISK_STEPS = 3
"""A checkpoint that cannot be written is tried again after each of the next steps, and the third failure is
heard of a step later."""


@dataclass(frozen=True)
class Episode:
    """One fault."""

    fault: str
    at: str
    ranks: int
    victims: tuple[int, ...]
    launcher: str = BY_HAND
    overrides: tuple[str, ...] = ()
    """Further keys of the run."""
    resumes: bool = True
    """Start it again by the same command, and compare with the undisturbed run."""
    later: int = 0
    """So many steps later than it says for the place; or earlier, below zero."""
    number: int = field(default=0, compare=False)

    @property
    def place(self) -> Place:
        """Where it is."""
        return PLACES[self.at]

    @property
    def name(self) -> str:
        """For people, and for --only."""
        who = ",".join(map(str, self.victims))
        how = "by hand" if self.launcher == BY_HAND else self.launcher
        return f"{self.fault} at {self.at} rank {who} of {self.ranks} {how}"

    @property
    def code(self) -> int:
        """The job's exit code."""
        return _CODES.get(self.fault, codes.PEER).number

    @property
    def cause(self) -> str:
        """A pattern of the cause that has to be named."""
        return _CAUSES[self.fault]

    @property
    def hangs(self) -> bool:
        """Whether it has to be found by a deadline."""
        return self.fault in HANGS or self.fault == "cut link"

    @property
    def in_step(self) -> bool:
        """Whether the deadline is that of steps; in the first one it is not."""
        return self.place.phase == "step" and self.made_in > 1

    @property
    def hang_seconds(self) -> float:
        """The key's value."""
        return SHORT_HANG_SECONDS if self.hangs and not self.in_step else HANG_SECONDS

    @property
    def allowed_seconds(self) -> float:
        """From the fault until no process is left."""
        if not self.hangs:
            return CRASH_SECONDS
        return self.hang_seconds * (1 if self.in_step else _ELSEWHERE) + AFTER_DEADLINE_SECONDS

    @property
    def culprits(self) -> tuple[int, ...]:
        """Ranks of which one has to be named; any, if only the launcher is gone."""
        return tuple(range(self.ranks)) if self.fault == "kill launcher" else self.victims

    @property
    def made_in(self) -> int:
        """The step in which the fault is made; 0: before the first."""
        return self.place.step + self.later

    @property
    def step(self) -> tuple[int, int]:
        """First and last step that may be named."""
        step = self.made_in
        if self.fault in SUPERVISOR or self.fault == "kill launcher":
            return 0, step + 1  # what it was heard to do last
        if self.fault == "disk full":
            return step, step + _DISK_STEPS
        if self.at == "saving":  # beside the steps
            return step, step + 2
        return step, step

    @property
    def phases(self) -> tuple[str, ...]:
        """Phases that may be named; empty: any."""
        vague = self.fault in (*SUPERVISOR, "kill launcher", "disk full") or not self.place.phase
        return () if vague else (self.place.phase,)

    @property
    def speakers(self) -> int:
        """How many print the culprit: all but ranks whose supervisor was killed."""
        return self.ranks - (len(self.victims) if self.fault in SUPERVISOR else 0)


def _background() -> bool:
    return importlib.util.find_spec("tttscale.train.checkpoint.writer") is not None


def episodes(seed: int, launchers: Sequence[str]) -> list[Episode]:
    """List the campaign's episodes.

    Args:
        seed: which ranks, and how faults, places and launchers are paired.
        launchers: that are here.
    """
    chooser = random.Random(seed)
    found = [*_by_hand(chooser), *_under_launchers(chooser, launchers)]
    return [replace(episode, number=number) for number, episode in enumerate(found, 1)]


def _by_hand(chooser: random.Random) -> Iterator[Episode]:
    """Each kind of fault at each place, on 2, 3 or 4 ranks in turn."""
    sizes, hangs = _turns(chooser, (2, 3, 4)), _turns(chooser, ("loop", "lock"))
    also = _turns(chooser, (True, False))  # every second one of the others is started again
    for at in PLACES:
        if at == "saving":
            continue
        kinds = ["kill", "raise", "kill supervisor", "stop", next(hangs)]
        if at == "imports":  # the key is not known before the configuration is
            kinds = ["kill", "raise"]
        for fault in kinds:
            ranks = next(sizes)
            resumes = fault == "kill" or next(also)
            yield Episode(fault, at, ranks, (chooser.randrange(ranks),), resumes=resumes)
    for at, ranks in (("wait", 3), ("checkpoint", 2), ("backward", 4)):
        yield Episode("kill both", at, ranks, (chooser.randrange(ranks),))
    yield Episode("kill", "advance", 4, (0,))
    yield Episode("kill supervisor", "optimizer", 3, (0,))
    yield Episode("two killed", "reduction", 4, (1, 2))
    yield Episode("two killed", "set-up", 3, (0, 2))
    yield Episode("cut link", "wait", 3, (1, 2))
    yield Episode("cut link", "backward", 4, (2, 3))
    every = ("checkpoint.every=1",)
    yield Episode("disk full", "checkpoint", 2, (0,), overrides=every, later=-2)
    yield Episode("metrics full", "records", 3, (0,))
    if _background():
        yield Episode("kill", "saving", 2, (0,))
        yield Episode("kill", "saving", 3, (1,))
    yield Episode("kill", "backward", 8, (chooser.randrange(8),))
    yield Episode("kill", "advance", 16, (chooser.randrange(16),))


_UNDER_LAUNCHERS = (
    *(("kill", "backward"), ("kill launcher", "wait"), ("stop", "advance"), ("raise", "set-up")),
    *(("kill supervisor", "reduction"), ("kill", "checkpoint"), ("kill", "start-up")),
)
_ONCE = (
    *(("kill", "connecting"), ("kill", "first step"), ("kill", "records"), ("kill", "closing")),
    *(("kill", "meeting"), ("loop", "optimizer"), ("raise", "evaluation"), ("lock", "optimizer")),
)
"""Each under one of the launchers."""


def _under_launchers(chooser: random.Random, launchers: Sequence[str]) -> Iterator[Episode]:
    """Every launcher with the same faults on two ranks, and two more each."""
    for number, launcher in enumerate(name for name in launchers if name != BY_HAND):
        for fault, at in (*_UNDER_LAUNCHERS, *_ONCE[number :: len(LAUNCHERS) - 1]):
            if fault == "kill launcher" and launcher == "bash":
                continue  # ranks outlive a shell, as under nohup
            resumes = (fault, at) in (("kill", "backward"), ("kill", "checkpoint"))
            resumes = resumes or launcher == "bash"
            yield Episode(fault, at, 2, (chooser.randrange(2),), launcher, resumes=resumes)


def _turns(chooser: random.Random, values: Sequence[T]) -> Iterator[T]:
    return itertools.cycle(chooser.sample(values, len(values)))
