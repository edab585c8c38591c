"""Which rank was the first to fail, and of what: the words in which supervisors tell each other."""

from dataclasses import dataclass

from tttscale.supervise.page import Beat


@dataclass(frozen=True)
class Ended:
    """How a rank's process has ended, as its supervisor saw it."""

    rank: int
    host: str
    code: int
    """Exit code; a negative number is the signal that killed it."""
    cause: str
    """What the rank said itself; empty if it could not."""
    last: Beat
    """Its last sign of life; times are seconds before the end was seen, so below zero."""


@dataclass(frozen=True)
class Verdict:
    """What all ranks print, and with which code all of them end."""

    rank: int
    host: str
    phase: str
    step: int
    cause: str
    exit_code: int
    """Number of the exit code (`tttscale.codes`)."""

    def line(self) -> str:
        """The line that every rank prints."""
        return (
            f"FAILED rank={self.rank} host={self.host} phase={self.phase} step={self.step} "
            f"cause={self.cause}"
        )
