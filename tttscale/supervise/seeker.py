"""Finds the hub for a supervisor whose rank ended before it could say where: `tttscale.comm.seek_hub`."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_MODULE = "tttscale.comm.seek_hub"
CALL_SECONDS = 1.5
"""Before that: the hub may be on this host, or about to be told."""
_SECONDS = 8.0
_READ_BYTES = 4096


class Seeker:
    """Another process, which may import what a supervisor must not."""

    def __init__(self, own: str, now: float) -> None:
        """Start it.

        Args:
            own: where the hub is, on rank 0; else empty.
            now: seconds of a clock.
        """
        self._began, self._read = now, b""
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._process = None
        with suppress(OSError):  # no memory, no processes: then this supervisor judges alone
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environ,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)
            self._process.stdin.write(
                own.encode() + b"\n"
            )  # never as an argument: it holds the token
            self._process.stdin.flush()

    def poll(self, now: float) -> str | None:
        """Return where the hub is; None as long as that is not known; empty if it is not found."""
        if self._process is None or now - self._began > _SECONDS:
            return ""
        assert self._process.stdout is not None
        data = None
        with suppress(BlockingIOError, OSError):
            data = os.read(self._process.stdout.fileno(), _READ_BYTES)
        if data == b"":
            return ""
        self._read += data or b""
        line, newline, _ = self._read.partition(b"\n")
        return line.decode(errors="replace") if newline else None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    if stream is not None:
                        stream.close()
            self._process = None
