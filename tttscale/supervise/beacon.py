"""How supervisors on rank 0's host find the hub from their first moment on, before any rank has met another.

The hub listens at a Unix socket whose name all of them can derive, and tells where it is. There is no file to
be left over, and both ends ask the system who the other one is: only the same user's processes talk.
"""

import hashlib
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress

from tttscale.cluster.launcher import launcher_links
from tttscale.cluster.ranks import Ranks

_PAUSE_SECONDS = 0.5
_MOST_BYTES = 4096
_MOST_CALLS = 64
"""At one look."""
_BACKLOG = 4096
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group."""


def beacon_name(ranks: Ranks, environ: Mapping[str, str]) -> str:
    """Return a name that the processes of one start of a job share on a host, and other jobs do not.

    Args:
        ranks: of this process; its port is the job's.
        environ: of this process.
    """
    links = launcher_links(os.getpid())
    launcher = links[-1].parent if links else os.getppid()
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    parts = (ranks.master_addr, ranks.master_port, ranks.world_size, launcher, attempt, os.getuid())
    return "\0tttscale-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


class Beacon:
    """The hub's side."""

    def __init__(self, name: str, text: str) -> None:
        """Listen, or try again later.

        Args:
            name: of `beacon_name`.
            text: what to tell.
        """
        self._name, self._text = name, text.encode()
        self._listener: socket.socket | None = None
        self._tried_at = float("-inf")
        self._listen()

    def poll(self, now: float) -> None:
        """Tell all who call."""
        if self._listener is None:
            if now - self._tried_at >= _PAUSE_SECONDS:
                self._tried_at = now
                self._listen()
            return
        for _ in range(_MOST_CALLS):
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with caller, suppress(OSError):
                caller.setblocking(False)
                if _is_own_users(caller):
                    caller.send(self._text)

    def close(self) -> None:
        """Stop."""
        if self._listener is not None:
            self._listener.close()

    def _listen(self) -> None:
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # too many open files
            return
        try:
            listener.bind(self._name)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError:  # the hub of a start before this one is about to end
            listener.close()
            return
        self._listener = listener


class Call:
    """The other supervisors' side."""

    def __init__(self, name: str) -> None:
        """Nothing is called yet."""
        self._name = name
        self._caller: socket.socket | None = None
        self._tried_at = float("-inf")

    def poll(self, now: float) -> str:
        """Return what the hub tells; empty as long as it does not."""
        if self._caller is None and now - self._tried_at >= _PAUSE_SECONDS:
            self._tried_at = now
            self._connect()
        if self._caller is None:
            return ""
        try:
            data = self._caller.recv(_MOST_BYTES)
        except BlockingIOError:
            return ""
        except OSError:
            data = b""
        self.close()
        return data.decode(errors="replace")

    def close(self) -> None:
        """Stop."""
        if self._caller is not None:
            self._caller.close()
            self._caller = None

    def _connect(self) -> None:
        try:
            caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # too many open files
            return
        try:
            caller.setblocking(False)
            caller.connect(self._name)
            if not _is_own_users(caller):
                raise OSError
        except OSError:  # rank 0 is on another host, or not there yet
            caller.close()
            return
        self._caller = caller


def _is_own_users(peer: socket.socket) -> bool:
    """Whether the process at the other end belongs to this process's user."""
    found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(found)[1] == os.getuid()
