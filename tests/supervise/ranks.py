"""A small program that is its own supervisor: what follows the fork is the rank."""

import sys
import time
from pathlib import Path

from tests.warm import Fresh

HEAD = """
import ctypes, os, signal, sys, time
from tttscale.supervise.alone import Alone
from tttscale.supervise.page import Page, Phase
from tttscale.supervise.supervisor import supervise
from tttscale.supervise.verdict import Verdict

class Judged(Alone):
    \"\"\"Gives a verdict once the rank has left a file.\"\"\"

    def poll(self):
        if os.path.exists(sys.argv[1] + "/judge"):
            return Verdict(*{verdict})

code = supervise(os.environ{job})
if code is not None:
    sys.exit(code)
Page.own.say("folder", sys.argv[1])
Page.own.enter(Phase.STEP, 7)

def note(name):
    open(sys.argv[1] + "/" + name, "w").write(str(os.getpid()))

"""


def start(folder, body, verdict=None, environ=None):
    """Start it; `verdict` is what the job says when the rank notes "judge"."""
    job = ", job=lambda page, ranks: Judged()" if verdict else ""
    program = HEAD.format(verdict=verdict, job=job) + body
    return Fresh([sys.executable, "-c", program, folder], environ)


def until(there, started=None, seconds=60):
    """Wait for something; what it is."""
    deadline = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < deadline, started and started.said()
        time.sleep(0.02)
    return found


def noted(folder, name, started):
    """The process id that the rank has noted."""
    path = folder / name
    return int(until(lambda: path.exists() and path.read_text(), started))


def is_running(pid):
    """Whether it is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
