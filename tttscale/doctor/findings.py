"""What a check finds, and how checks run: none of them ends the doctor."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from tttscale.packages import one_line


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    """It works, more slowly or with less than it could."""
    PROBLEM = "problem"
    """A run fails of it, or would compute something else than another rank."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    level: Level
    what: str
    remedy: str = ""
    """What to do; empty if all is well."""


def ok(what: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, what)


def warning(what: str, remedy: str) -> Finding:
    """It could be better."""
    return Finding(Level.WARNING, what, remedy)


def problem(what: str, remedy: str) -> Finding:
    """It has to change."""
    return Finding(Level.PROBLEM, what, remedy)


Check = Callable[[], Iterable[Finding]]


def run_check(name: str, check: Check) -> Iterator[Finding]:
    """What a check finds; if it fails, that is what was found."""
    try:
        yield from check()
    except Exception as error:  # of any library that is broken here
        yield warning(
            f"{name} could not be looked at ({one_line(error)})",
            "Start python and try what the message names, or report it with this line",
        )
