"""Writing that may take for ever: a network's file system that does not answer is one cause of a hang."""

import os
import select
import signal
from collections.abc import Callable

_READ_BYTES = 4096


def written_in_time(work: Callable[[], None], seconds: float) -> str:
    """Do something in a forked process, which is left alone if it takes too long.

    Args:
        work: writes files; this process has one thread.
        seconds: after which it is no longer waited for.

    Returns:
        What went wrong; empty if nothing did.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
            problem = "done"
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        os.write(writer, problem.encode(errors="replace")[:_READ_BYTES])
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], seconds)
    said = os.read(reader, _READ_BYTES).decode(errors="replace") if ready else ""
    os.close(reader)
    if not ready:
        os.kill(child, signal.SIGKILL)  # it dies when the disk answers
        return f"the disk does not answer within {seconds:.0f} s"
    os.waitpid(child, 0)
    return "" if said == "done" else said or "its writer was killed"
