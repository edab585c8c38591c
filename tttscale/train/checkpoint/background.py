"""Work in a thread beside the training steps, which leaves them the processor."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

_NICENESS = 5
"""Added to the thread's: on a core that steps keep busy it gets about a quarter."""


def in_background(work: Callable[[], T], name: str) -> "Future[T]":
    """Call `work` in a thread of its own.

    The thread does not keep the process from ending: what has to be done before is waited for.

    Args:
        work: whatever it raises is the future's.
        name: of the thread, as stacks show it.
    """
    future: Future[T] = Future()

    def run() -> None:
        """Do the work at a lower priority."""
        _step_back()
        _do(work, future)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def done_now(work: Callable[[], T]) -> "Future[T]":
    """Call `work` before this returns; an Exception is the future's, too."""
    future: Future[T] = Future()
    _do(work, future, Exception)
    return future


def _do(
    work: Callable[[], T], future: "Future[T]", kept: type[BaseException] = BaseException
) -> None:
    try:
        future.set_result(work())
    except kept as error:
        future.set_exception(error)


def _step_back() -> None:
    """Lower this thread's priority; threads that it starts have the same. Linux knows one for each thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            now = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, now + _NICENESS))
