"""The supervisor of a rank: the launched process, which forks the rank off and watches it from outside.

It imports nothing heavy and has one thread, so nothing that happens to the rank can stop it: an endless loop,
a library that holds Python's lock, a signal that kills. It knows exactly how the rank has ended.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tttscale.cluster.ranks import Ranks, discover, discover_place
from tttscale.errors import LaunchError
from tttscale.supervise.child import become_rank, is_single_threaded
from tttscale.supervise.job import Job
from tttscale.supervise.page import Page
from tttscale.supervise.rank import Rank
from tttscale.supervise.stacks import Stacks
from tttscale.supervise.watch import SIGNALS, Others, Supervisor

SWITCH = "TTTSCALE_SUPERVISOR"
"""Variable: `off` lets the rank run unwatched in the launched process, for debuggers and profilers."""
_NEVER = {"--help", "--print-config"}


def is_wanted(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether a command line starts a rank that is to be watched.

    Args:
        arguments: of the command.
        environ: of this process.
    """
    verb = next((word for word in arguments if not word.startswith("-")), "")
    if verb not in ("train", "profile") or _NEVER & set(arguments):
        return False
    if environ.get(SWITCH, "") == "off" or not sys.platform.startswith("linux"):
        return False
    if verb == "profile" and (_place(environ) or Ranks(0, 1, 0, 1, "", 0, "")).world_size == 1:
        return False
    if not is_single_threaded():
        print(f"no supervisor: this process has threads already ({SWITCH}=off)", file=sys.stderr)
        return False
    return True


def supervise(environ: Mapping[str, str], job: Callable[[Page, Ranks], Others] = Job) -> int | None:
    """Fork; the child returns at once and is the rank, the parent watches it to its end.

    Args:
        environ: of this process.
        job: makes, before the fork, the view of the other supervisors.

    Returns:
        In the child None; in the parent the exit code of the job.
    """
    ranks = _place(environ)
    if ranks is None:
        return None
    page, stacks, own = Page(), Stacks(), os.getpid()
    others = job(page, ranks)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both would write what is left in its buffer
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if not child:
        become_rank(page, stacks, own, mask)
        others.drop()
        return None
    others.watch(child)
    return Supervisor(Rank(child, page, stacks), ranks, others, environ).run()


def _place(environ: Mapping[str, str]) -> Ranks | None:
    """Return this process's place; None if it has none, which the rank then reports."""
    for find in (discover, discover_place):  # the second one does without MASTER_ADDR
        with suppress(LaunchError):
            return find(environ)
    return None
