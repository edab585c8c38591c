"""A rank ends with its launcher: if torchrun or deepspeed is killed, no one else would end the ranks."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tttscale import codes
from tttscale.cluster.ranks import Ranks, discover

LAUNCHER_LOST = codes.PEER.number
"""Exit code of a rank whose launcher is gone."""
_POLL_SECONDS = 0.5
_LAUNCHERS = re.compile(
    r"torchrun|torch[./]distributed[./](run|launch)|deepspeed"
    r"|\b(mpirun|mpiexec|orterun|prterun|orted|prted|hydra_pmi_proxy|srun|slurmstepd)\b"
    r"|\btttscale (bench|launch again)\b"  # start ranks of their own
)
_PROC = Path("/proc")


class Link(NamedTuple):
    """A process and its parent, at the start."""

    child: int
    parent: int
    name: str
    """The parent's name, for people."""


def launcher_links(own: int, proc: Path = _PROC) -> list[Link]:
    """List who started this process, up to the topmost launcher; nothing without one.

    Processes above the launcher may end: a shell that was closed, for example.

    Args:
        own: this process's id.
        proc: where Linux shows processes.
    """
    links: list[Link] = []
    last_launcher, child = 0, own
    while (parent := _parent(child, proc)) not in (None, 0, 1):
        assert parent is not None
        words = _words(parent, proc)
        found = _LAUNCHERS.search(words)
        links.append(Link(child, parent, found.group(0) if found else words.split(" ")[0]))
        if found:
            last_launcher = len(links)
        child = parent
    return links[:last_launcher]


def broken_link(links: list[Link], proc: Path = _PROC) -> Link | None:
    """Return the first link whose child has another parent now, or is gone."""
    return next((link for link in links if _parent(link.child, proc) != link.parent), None)


def join(environ: Mapping[str, str]) -> Ranks:
    """Find this rank's place in its job, and end with the job's launcher from now on.

    Every command that waits for other ranks begins here: else a rank would wait for ever once its launcher
    and the others are gone.

    Args:
        environ: the process's environment.

    Raises:
        LaunchError: as in `discover`.
    """
    ranks = discover(environ)
    end_with_launcher(ranks.rank)
    return ranks


def end_with_launcher(rank: int, leave: Callable[[int], None] = os._exit) -> None:
    """Start a thread that ends this process soon after its launcher is gone; nothing without a launcher.

    Args:
        rank: for the message.
        leave: ends the process.
    """
    links = launcher_links(os.getpid())
    if not links:
        return

    def watch() -> None:
        """Look at the links until one is broken, then end the process."""
        while (lost := broken_link(links)) is None:
            time.sleep(_POLL_SECONDS)
        with suppress(OSError, ValueError):  # whoever read this may be gone, too
            print(
                f"error: rank {rank} ends: its launcher is gone ({lost.name}, process {lost.parent})",
                file=sys.stderr,
                flush=True,
            )
        leave(LAUNCHER_LOST)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def _parent(pid: int, proc: Path) -> int | None:
    """Return a process's parent; None if it is gone."""
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in brackets may hold anything, also brackets.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def _words(pid: int, proc: Path) -> str:
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").strip()
        name = words or (proc / str(pid) / "comm").read_bytes().strip()
    except OSError:
        return "?"
    return name.decode(errors="replace")
