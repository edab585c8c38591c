"""What a rank does right after it was forked off, before anything else."""

import ctypes
import os
import signal
import threading
from collections.abc import Collection
from pathlib import Path

from tttscale import codes
from tttscale.supervise.page import Page
from tttscale.supervise.stacks import Stacks

_PR_SET_PDEATHSIG = 1
_TASKS = Path("/proc/self/task")


def become_rank(page: Page, stacks: Stacks, supervisor: int, mask: Collection[int]) -> None:
    """Make this process a rank that its supervisor can watch, and that ends with it.

    SIGUSR1 waits until the run listens to it (`SaveRequests`); before, it would end the process.

    Args:
        page: of this rank.
        stacks: of this rank.
        supervisor: process id of the parent.
        mask: signals that were blocked before the supervisor blocked its own.
    """
    die_with_parent(supervisor)
    stacks.listen()
    Page.own = page
    signal.pthread_sigmask(signal.SIG_SETMASK, {*mask, signal.SIGUSR1})


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, however that ends.

    Args:
        parent: process id of the one that has forked it, which may be gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(codes.PEER.number)


def is_single_threaded() -> bool:
    """Whether a fork copies the whole process: threads, and locks that they hold, would stay behind."""
    try:
        threads = len(list(_TASKS.iterdir()))
    except OSError:
        threads = 1
    return threads == 1 and threading.active_count() == 1
