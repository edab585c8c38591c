"""What a rank's end means: whether it is a failure, and of what."""

import signal
from collections.abc import Collection
from dataclasses import replace

from tttscale import codes
from tttscale.supervise.page import Beat, Page

_HINTS: dict[int, str] = {
    signal.SIGKILL: "perhaps for lack of memory: see the kernel's log (dmesg), or the batch system's",
    signal.SIGSEGV: "a crash in a library",
    signal.SIGBUS: "a crash in a library, or /dev/shm is full",
    signal.SIGABRT: "a library gave up; its words are above",
    signal.SIGILL: "a library is built for another processor",
    signal.SIGFPE: "a crash in a library",
}
_FAILURES = {code.number for code in codes.CODES} - {
    *(codes.DONE.number, codes.PROBLEM.number, codes.FLAGS.number, codes.SAVED.number),
}
ENDED_AS_ASKED = {codes.DONE.number, codes.SAVED.number}


def code_of(status: int, passed_on: Collection[int]) -> int:
    """Return a rank's exit code; below zero, the signal that killed it.

    Args:
        status: as `os.waitstatus_to_exitcode` gives it.
        passed_on: signals that its supervisor was sent. Killed by one of them, it has ended as asked.
    """
    return 128 - status if -status in passed_on else status


def is_interrupted(code: int) -> bool:
    """Whether a signal that asks for it has ended a rank, such as Ctrl-C: that is no failure."""
    return code > 128


def class_of(code: int) -> int:
    """Return the job's exit code for that of a rank which failed; a signal's is below zero."""
    if code < 0:
        return codes.PEER.number
    return code if code in _FAILURES or is_interrupted(code) else codes.BUG.number


def cause_of(code: int, said: str) -> str:
    """Say in one line why a rank has ended.

    Args:
        code: its exit code; below zero, a signal.
        said: what the rank has left on its page.
    """
    if code < 0:
        name = _name(-code)
        hint = _HINTS.get(-code)
        killed = f"killed by {name}" + (f" ({hint})" if hint else "")
        return f"{killed} after: {one_line(said)}" if said else killed
    if code > 128:
        return f"ended by {_name(code - 128)}"
    return one_line(said) or f"ended with exit code {code}, without a word"


def one_line(text: str) -> str:
    """Return a text as one line."""
    return " ".join(text.split())


def last_sign(page: Page, now: float) -> Beat:
    """Return the last sign of life, with times in seconds before now.

    Args:
        page: of the rank.
        now: by the host's monotonic clock.
    """
    beat = page.read()
    return replace(beat, at=beat.at - now, phase_at=beat.phase_at - now)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
